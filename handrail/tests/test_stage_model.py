"""The real stage on the twin under any schedule of trouble: nothing lost, nothing twice, in order, tables as committed.

The seed of each hundred examples is printed; `--hypothesis-seed=<seed>` begins with those.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from handrail.contracts import Contracts
from handrail.testing.model.machine import model
from handrail.testing.model.world import Subject
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

STEPS = 20_000
SETTINGS = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
CONTRACTS = Contracts.load(Path(__file__).parents[2] / "contracts")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The stage warns of each abort, and there are many."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.mark.timeout(900, method="thread")  # Hypothesis would take the signal of a hang for a failure, and try again
def test_whatever_happens_each_input_ends_in_one_place_once_and_in_order(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    given = request.config.getoption("--hypothesis-seed")
    chosen = int(given) if given not in (None, "random") else random.SystemRandom().randrange(2**32)
    counted: Counter[str] = Counter()
    started = time.process_time()
    while counted.total() < STEPS:
        tried = model(Subject(CONTRACTS))
        try:
            run_state_machine_as_test(seed(chosen)(tried), settings=SETTINGS)
        finally:
            counted += tried.steps
            seconds = time.process_time() - started
            with capsys.disabled():
                sys.stdout.write(f"\nMODEL steps={counted.total()} seed={chosen} cpu_seconds={seconds:.0f}\n")
        assert tried.steps, "there must be an end to it"
        chosen += 1
    kinds = {f"commit {fate}" for fate in ("produce", "aborted", "unknown", "late", "slow")}
    assert kinds <= counted.keys(), "every fate of a commit must have been tried"
