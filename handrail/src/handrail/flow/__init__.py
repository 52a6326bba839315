"""Flows: what a flow's files say, checked and bound, and the pure engine that moves a run.

flows = Flows.load(Path("flows"), Path("systems"), contracts)
flow = flows.newest("order-to-invoice")
request = flow.mapping.transform(event)
moved = advance(flow, None, Prepared(...), Values(event, request, {}))
"""

from handrail.flow.bound import Flow
from handrail.flow.engine import advance
from handrail.flow.loading import Flows
from handrail.flow.mapping import Mapping
from handrail.flow.model import FlowFile, Step
from handrail.flow.run import Advance, Event, HumanVerdict, Prepared, RunState, StepFailing, StepOutcome, Values
from handrail.flow.system import Operation, System
from handrail.flow.table import Decision, Table

__all__ = [
    "Advance",
    "Decision",
    "Event",
    "Flow",
    "FlowFile",
    "Flows",
    "HumanVerdict",
    "Mapping",
    "Operation",
    "Prepared",
    "RunState",
    "Step",
    "StepFailing",
    "StepOutcome",
    "System",
    "Table",
    "Values",
    "advance",
]
