"""The verdict: set algebra over everything that can be seen from outside. Pure.

Four checks: lost (acknowledged, and it ended nowhere, or was not handled), twice (an effect, an end, an output or a mark more
than once), torn (parts of one transaction that do not belong together) and order (of one key; the rule is in
handrail_chaos.checker_order). An empty world proves nothing: it is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from handrail_chaos.checker_effects import check_effects, check_notices
from handrail_chaos.checker_ends import Ends, Place
from handrail_chaos.checker_order import check_order
from handrail_chaos.checker_stage import StageView, check_hidden, check_outputs
from handrail_chaos.checker_words import Check, Findings, Wrong
from handrail_chaos.evidence import Evidence

__all__ = ["Check", "Verdict", "Wrong", "check"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong, by check, each with a name and a reason; and how many names ended where."""

    lost: tuple[Wrong, ...]
    twice: tuple[Wrong, ...]
    torn: tuple[Wrong, ...]
    order: tuple[Wrong, ...]
    published: int
    acknowledged: int
    ended: dict[str, int]

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.twice or self.torn or self.order)

    @property
    def caught(self) -> tuple[str, ...]:
        """The checks that found something."""
        return tuple(check for check in Check if getattr(self, check))

    def line(self) -> str:
        """The end of the line that `make chaos` ends with."""
        return f"lost={len(self.lost)} twice={len(self.twice)} torn={len(self.torn)} order={len(self.order)}"


def check(evidence: Evidence) -> Verdict:
    """Judge a world that has come to rest."""
    found = Findings()
    ends = Ends(evidence)
    views = [StageView(evidence, stage) for stage in evidence.stages]
    _something(evidence, ends, found)
    check_hidden(evidence, found)
    for view in views:
        view.check(found)
        for (stage, partition), table in evidence.tables.items():
            if stage == view.stage.name:
                view.check_table(partition, table, found)
    check_outputs(evidence, views, found)
    ends.check(found)
    check_effects(evidence, ends, found)
    check_notices(evidence, ends, found)
    check_order(evidence, views, ends, found)
    acknowledged = {one.name for one in evidence.published if one.acknowledged}
    return Verdict(
        lost=tuple(found.by_check[Check.LOST]),
        twice=tuple(found.by_check[Check.TWICE]),
        torn=tuple(found.by_check[Check.TORN]),
        order=tuple(found.by_check[Check.ORDER]),
        published=len(evidence.published),
        acknowledged=len(acknowledged),
        ended={str(place): sum(place in places for places in ends.places.values()) for place in Place},
    )


def _something(evidence: Evidence, ends: Ends, found: Findings) -> None:
    """There must be something to judge, everywhere that is judged."""
    if not any(one.acknowledged for one in evidence.published):
        found.lost("everything", "nothing was acknowledged, so there is nothing to judge")
    if not evidence.stages:
        found.lost("everything", "there is no stage to judge")
    for stage in evidence.stages:
        for name in (stage.inbox, f"{stage.name}.state", f"{stage.name}.marks", f"{stage.name}.delayed"):
            if name not in evidence.topics or not evidence.topic(name).ends:
                found.lost(stage.name, f"there is no topic {name} in the evidence")
    if any(place for place in ends.places.values()) and not any(evidence.topic(one).records for one in ends.sources):
        found.lost("everything", "things ended, and the source topics are empty")
