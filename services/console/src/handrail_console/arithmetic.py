"""What measures are made with: quantiles over cases of which some are open, shares, and a trend in eight heights. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date
from itertools import pairwise

_BARS = "▁▂▃▄▅▆▇█"


def quantile(took: Iterable[int | None], percent: int) -> int | None:
    """The shortest time within which so many percent of all were over; None: not so many are over yet (or there are none).

    What is still open (None) counts as longer than anything else: censored, and never left out. A Counter has each time as
    often as it says.
    """
    counted: Counter[int | None] = took if isinstance(took, Counter) else Counter(took)
    place = (percent * counted.total() + 99) // 100
    for one in sorted(counted, key=lambda one: (one is None, one or 0)):
        place -= counted[one]
        if place <= 0:
            return one
    return None


def share(part: int | None, whole: int) -> float | None:
    """None where there is no whole."""
    return None if part is None or not whole else part / whole


def failed_share(runs: int, failed: int) -> float | None:
    """What failed before it became a run counts as failed, not as a run: hence the limit. None where nothing came."""
    return min(1.0, failed / runs) if runs else (1.0 if failed else None)


def sparkline(weeks: Mapping[str, tuple[int, int]], last: int = 12) -> str:
    """The share of failed runs, week by week, the highest of them the whole bar; `·` for a week without runs."""
    shares = [failed_share(*week) for week in _without_gaps(weeks)[-last:]]
    highest = max((one for one in shares if one), default=0.0)
    return "".join(
        "·" if one is None else _BARS[round(one / highest * (len(_BARS) - 1))] if highest else _BARS[0]
        for one in shares
    )


def _without_gaps(weeks: Mapping[str, tuple[int, int]]) -> list[tuple[int, int]]:
    days = sorted(date.fromisoformat(week) for week in weeks)
    found: list[tuple[int, int]] = [weeks[days[0].isoformat()]] if days else []
    for before, day in pairwise(days):
        found += [(0, 0)] * ((day - before).days // 7 - 1)
        found.append(weeks[day.isoformat()])
    return found
