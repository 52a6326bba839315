"""What stands beside a flow's four measures: what it is for, and what it takes of people. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from handrail_console.arithmetic import quantile
from handrail_console.measures import Measures
from handrail_console.purpose import Amounts, Times
from handrail_console.upkeep import Upkeep, Work
from handrail_console.web.health import Figure, number
from handrail_console.words import amount, span, within


def purpose(measures: Measures, now: int) -> Sequence[Figure]:
    """A figure for each outcome that the flow declares."""
    times = [_time(name, one, now) for name, one in sorted(measures.purpose.times.items())]
    return [*times, *(_amount(name, unit, one) for name, unit, one in measures.purpose.sorted_amounts())]


def people(measures: Measures) -> Sequence[Figure]:
    """Minutes of work, waiting for people, and upkeep; nothing where there was nothing."""
    work, upkeep = measures.work, measures.upkeep
    if not work.orders and not upkeep.any():
        return ()
    return (_minutes(work), *_waiting(upkeep), *_upkeep(upkeep))


def _time(name: str, one: Times, now: int) -> Figure:
    half, most = quantile(one.took, 50), quantile(one.took, 95)
    details = [f"95 %: {within(most)}"] if one.took else []
    if one.promised:
        details.append(f"{one.kept:,} of {one.promised:,} in time")
    if one.oldest_open_since is not None:
        details.append(f"{one.still_open:,} not yet, for {span(now - one.oldest_open_since)}")
    if one.given_up:
        details.append(f"{one.given_up:,} given up")
    if one.not_wanted:
        details.append(f"{one.not_wanted:,} ended without")
    value = "–" if not one.took else within(half)
    return Figure(name, value, "; ".join(details))


def _amount(name: str, unit: str | None, one: Amounts) -> Figure:
    rest = ((one.sums["under_way"], "under way"), (one.sums["done"], "done"), (one.sums["given_up"], "given up"))
    value = f"{amount(one.sums['at_risk'])} {unit or ''}".rstrip()
    return Figure(f"{name}, at risk", value, "; ".join(f"{amount(much)} {what}" for much, what in rest))


def _minutes(work: Work) -> Figure:
    silent = work.orders.total() - work.told_by
    detail = number(work.orders.total(), "order") + (f", {silent:,} of which say none" if silent else "")
    return Figure("Minutes by hand", f"{work.minutes.total():,}", detail)


def _waiting(upkeep: Upkeep) -> Sequence[Figure]:
    found = []
    for owner, took in sorted(upkeep.waited.items()):
        half, still_open = quantile(took, 50), sum(one is None for one in took)
        detail = number(len(took), "task") + (f", {still_open:,} open" if still_open else "")
        found.append(Figure(f"Waited for {owner}", within(half), detail))
    return found


def _upkeep(upkeep: Upkeep) -> Sequence[Figure]:
    going_on = f"{upkeep.still_open:,} going on" if upkeep.still_open else "none going on"
    lasted = f"{span(upkeep.incident_ms)} in all; {going_on}" if upkeep.incident_ms else going_on
    kept = number(upkeep.reviews, "review") + (f", {upkeep.review_minutes:,} min" if upkeep.review_minutes else "")
    return (
        Figure("Changes", f"{upkeep.changes:,}", kept),
        Figure("Incidents", f"{len(upkeep.incidents):,}", lasted if upkeep.incidents else "none"),
    )
