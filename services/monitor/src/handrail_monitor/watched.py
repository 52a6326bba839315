"""What is watched: flows with owners and limits, the systems that they call, and the stages that must be heard. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from handrail.flow import Flow, Flows
from handrail.flow.model import Expect
from handrail.kafka.provision import source_topic
from handrail.kafka.topics import stages

RUNBOOK = "docs/operations/alerts.md"


@dataclass(frozen=True, slots=True)
class FlowWatch:
    """One flow: the newest version says who owns it and when to tell. Ages in ms; None: as the deployment has it."""

    name: str
    owner: str
    runbook: str
    stages: tuple[str, ...]
    ingest: tuple[str, ...]
    systems: tuple[str, ...] = ()
    to: str | None = None
    failed_rate: float | None = None
    over_ms: int | None = None
    oldest_letter_ms: int | None = None
    expect: Expect | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """Everything. `expected` maps each stage that must be heard to its service, `systems` each system to its owner."""

    flows: Mapping[str, FlowWatch] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)
    systems: Mapping[str, str] = field(default_factory=dict)
    link: str = ""
    """What stands before the path of a runbook, such as the address of the repository's pages."""

    @classmethod
    def of(cls, flows: Flows, link: str = "") -> Watched:
        """From the project's flows."""
        found = {
            name: _watch(name, [flows.get(name, version) for version in flows.versions(name)]) for name in flows.names()
        }
        expected: dict[str, str] = {}
        for watch in found.values():
            expected |= {
                stage: service_of(stage) for stage in (*watch.stages, *(f"action.{one}" for one in watch.systems))
            }
        expected |= {"recovery.commands": "recovery", "recovery.letters": "recovery", "console": "console"}
        owners = {name: one.people["owner"] for name, one in flows.systems.items() if "owner" in one.people}
        return cls(found, expected, owners, link)

    def flow_of(self, stage: str) -> FlowWatch | None:
        """The flow whose own stage this is."""
        return next((flow for flow in self.flows.values() if stage in flow.stages), None)

    def owner(self, flow: str | None, system: str | None) -> str | None:
        """Who answers: the flow's owner; the system's, or (where it names none) those of the flows that call it; else all."""
        if flow is not None and flow in self.flows:
            return self.flows[flow].owner
        if system is not None and system in self.systems:
            return self.systems[system]
        owners = {one.owner for one in self.flows.values() if system is None or system in one.systems}
        return ", ".join(sorted(owners)) or None

    def runbook(self, rule: str, flow: str | None) -> str:
        """The flow's runbook where the rule is about the work itself, else the operators' page."""
        known = self.flows.get(flow or "")
        return self.link + (known.runbook if known and rule == "runs-failing" else f"{RUNBOOK}#{rule}")

    def to(self, flow: str | None, system: str | None) -> tuple[str, ...]:
        """Whom the flows concerned want told; nobody: the default ones."""
        concerned = [
            one for one in self.flows.values() if one.name == flow or (system is not None and system in one.systems)
        ]
        return tuple(sorted({one.to for one in concerned if one.to}))


def service_of(stage: str) -> str:
    """The service that runs a stage, by its name."""
    first, _, rest = stage.partition(".")
    if first in ("action", "recovery"):
        return first
    return rest.partition(".")[0] or stage


def _watch(name: str, versions: Sequence[Flow | None]) -> FlowWatch:
    there = [one for one in versions if one is not None]
    newest = there[-1].definition
    sources = sorted({source_topic(one.trigger.contract) for one in there})
    own = tuple(stage for stage in stages([(name, one) for one in sources], ()) if not stage.startswith("recovery."))
    when = newest.alerts.when
    return FlowWatch(
        name,
        newest.people.owner,
        f"flows/{name}/v{newest.version}/{newest.manual.runbook}",
        own,
        tuple(stage for stage in own if service_of(stage) == "ingest"),
        tuple(sorted({step.system for one in there for step in one.steps if step.system})),
        newest.alerts.to,
        when.failed_rate.above if when.failed_rate else None,
        when.failed_rate.over_ms if when.failed_rate else None,
        when.oldest_dead_letter.above_ms if when.oldest_dead_letter else None,
        newest.expect,
    )
