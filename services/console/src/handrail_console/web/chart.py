"""The trend as bars: the share of runs that failed, week by week. Pure: what the template draws as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from handrail_console.arithmetic import failed_share
from handrail_console.words import percent

WEEKS = 12
STEP, BAR, HEIGHT = 10, 7, 32
LEAST = 2.0
"""Height of a week without a failure: there were runs."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One week. `height` is None where no run began."""

    x: float
    height: float | None
    failed: bool

    @property
    def y(self) -> float:
        return HEIGHT - (self.height or 0.0)


@dataclass(frozen=True, slots=True)
class Chart:
    """`text` says the same in words; `highest` is what the whole height means."""

    bars: tuple[Bar, ...]
    text: str
    highest: str = ""
    width: int = WEEKS * STEP
    height: int = HEIGHT


def trend(weeks: Mapping[str, tuple[int, int]]) -> Chart:
    """`weeks` are runs begun and failed by Monday. The highest share of the last twelve weeks is the whole height."""
    if not weeks:
        return Chart((), "no runs")
    last = date.fromisoformat(max(weeks))
    days = [last - timedelta(weeks=back) for back in reversed(range(WEEKS))]
    shares = [failed_share(*weeks.get(day.isoformat(), (0, 0))) for day in days]
    highest = max((one for one in shares if one), default=0.0)
    bars = tuple(
        Bar(index * STEP, None if one is None else _height(one, highest), bool(one)) for index, one in enumerate(shares)
    )
    told = [f"{day.isoformat()}: {percent(one)}" for day, one in zip(days, shares, strict=True) if one is not None]
    text = "Failed runs by week. " + ("; ".join(told) if told else "No runs")
    return Chart(bars, text, percent(highest) if highest else "")


def _height(one: float, highest: float) -> float:
    return round(LEAST + (HEIGHT - LEAST) * one / highest, 2) if one and highest else LEAST
