"""The only place where decision's concrete things are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handrail.errors import ConfigError
from handrail.flow import Flow
from handrail.flow.run import ENDS
from handrail.service import Deployment, Plan
from handrail.spec import Spec

from handrail_decision.handler import FAILING, HUMAN_DECISION, OUTCOME, PREPARED, TABLES, Decide, continues


def plans(deployment: Deployment) -> list[Plan]:
    """One stage per flow: `<flow>.decision`."""
    return [Plan(_spec(deployment, name)) for name in deployment.flows.names()]


def _spec(deployment: Deployment, name: str) -> Spec:
    flows, contracts = deployment.flows, deployment.contracts

    def flow(version: int) -> Flow:
        found = flows.get(name, version)
        if found is None:
            raise ConfigError(f"this process does not have {name} v{version}")
        return found

    def decode(raw: bytes) -> Mapping[str, Any]:
        return contracts.decode(raw)[1]

    return Spec(
        name=f"{name}.decision",
        inbox=f"{name}.decision",
        accepts=frozenset({PREPARED, FAILING, OUTCOME, HUMAN_DECISION}),
        handler=Decide(flow, decode),
        partitions=deployment.partitions,
        knows=lambda asked, version: asked != name or flows.get(name, version) is not None,
        tables=TABLES,
        continues=continues,
        policy=flows.newest(name).policy,
        ordering=flows.newest(name).definition.ordering,
        may_count=frozenset(f"runs.{end}" for end in ENDS),
    )
