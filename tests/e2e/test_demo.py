"""The demo, smaller: whole it accounts for every order, and with a protection taken out it is caught."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [pytest.mark.kafka, pytest.mark.demo, pytest.mark.timeout(1200)]

PROJECT = Path(__file__).parents[2]
PLACES = ("done", "rejected", "dead_letters", "by_hand")
NAMES = ("published", "distinct", *PLACES, "lost", "twice")
ACCOUNTED = re.compile("ACCOUNTED " + " ".join(rf"{name}=(?P<{name}>\d+)" for name in NAMES))
RUNS = {
    "whole": ("--orders", "300"),
    "dedupe": ("--orders", "150", "--break", "dedupe"),
    "verify": ("--orders", "300", "--break", "verify"),  # of the first 200 orders billing loses no reply
}
Ended = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Ended]]:
    """Two at once, each on a stack of its own: most of their time is waiting for retries."""

    homes = {name: tmp_path_factory.mktemp(name) for name in RUNS}  # here: pytest's factory is not for threads

    def run(name: str) -> Ended:
        return subprocess.run(
            [sys.executable, "-m", "handrail_demo", *RUNS[name], "--home", str(homes[name])],
            cwd=PROJECT,
            env={name: value for name, value in os.environ.items() if not name.startswith("HANDRAIL_")},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    with ThreadPoolExecutor(2) as pool:
        yield dict(zip(RUNS, pool.map(run, RUNS), strict=True))


def accounts(ended: Ended) -> dict[str, int]:
    """The numbers of the last line."""
    lines = ended.stdout.splitlines()
    found = ACCOUNTED.fullmatch(lines[-1]) if lines else None
    assert found, ended.stdout + ended.stderr
    return {name: int(number) for name, number in found.groupdict().items()}


def test_every_order_is_accounted_for_though_services_were_killed(ended: Mapping[str, Ended]) -> None:
    whole = ended["whole"]
    assert whole.returncode == 0, whole.stdout + whole.stderr
    told = accounts(whole)
    assert told["published"] > told["distinct"] >= 300  # with revisions, copies and what can't be decoded
    assert told["distinct"] == sum(told[place] for place in PLACES)
    assert (told["lost"], told["twice"]) == (0, 0)
    assert all(told[place] > 0 for place in ("done", "rejected", "dead_letters"))
    kills = re.findall(r"kill -9 (\w+) \(pid \d+\) with (\d+) records in flight", whole.stderr)
    assert [service for service, _ in kills] == ["ingest", "decision", "action"]
    assert all(int(count) > 0 for _, count in kills)


@pytest.mark.parametrize("broken", ["dedupe", "verify"])
def test_a_build_without_a_protection_is_caught(ended: Mapping[str, Ended], broken: str) -> None:
    assert ended[broken].returncode == 1, ended[broken].stdout + ended[broken].stderr
    assert accounts(ended[broken])["twice"] > 0
    assert "effects in the books" in ended[broken].stderr
