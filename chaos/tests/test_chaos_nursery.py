"""What the nursery starts is a process of its own: it ends as it would by itself, can be killed, and outlives nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from handrail_chaos.nursery import Nursery

PROJECT = Path(__file__).parents[2]
WITHIN_S = 60.0


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    one = Nursery(["handrail_transform"], dict(os.environ), tmp_path / "nursery.log")
    yield one
    one.stop()


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Kafka is nowhere, so that a service waits for it."""
    return {
        **os.environ,
        "HANDRAIL_HOME": str(tmp_path),
        "HANDRAIL_BOOTSTRAP": "127.0.0.1:1",
        "HANDRAIL_CONTRACTS": str(PROJECT / "contracts"),
        "HANDRAIL_FLOWS": str(PROJECT / "flows"),
        "HANDRAIL_SYSTEMS": str(PROJECT / "systems"),
        **more,
    }


def test_a_process_that_ends_by_itself_tells_its_exit_code_and_its_log(nursery: Nursery, tmp_path: Path) -> None:
    log = tmp_path / "transform.log"
    child = nursery.start("handrail_transform", environment(tmp_path, HANDRAIL_CONTRACTS="/nowhere"), log)
    assert child.wait(WITHIN_S) == 2
    assert child.poll() == 2
    assert '"event": "misconfigured"' in log.read_text()


def test_a_killed_process_is_seen_to_be_killed_and_the_next_one_is_another(nursery: Nursery, tmp_path: Path) -> None:
    log = tmp_path / "transform.log"
    first = nursery.start("handrail_transform", environment(tmp_path), log)
    second = nursery.start("handrail_transform", environment(tmp_path), log)
    assert first.pid != second.pid
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.1)
    os.killpg(first.pid, signal.SIGKILL)  # each has a session of its own
    assert first.wait(WITHIN_S) == -signal.SIGKILL
    assert second.poll() is None


def test_each_process_has_the_environment_that_it_was_given(nursery: Nursery, tmp_path: Path) -> None:
    wrong = environment(tmp_path, HANDRAIL_CONTRACTS="/nowhere")
    assert nursery.start("handrail_transform", wrong, tmp_path / "a.log").wait(WITHIN_S) != 0
    other = nursery.start("handrail_transform", environment(tmp_path), tmp_path / "b.log")
    assert other.poll() is None


def test_when_the_nursery_ends_what_it_has_started_is_gone(tmp_path: Path) -> None:
    nursery = Nursery(["handrail_transform"], dict(os.environ), tmp_path / "nursery.log")
    child = nursery.start("handrail_transform", environment(tmp_path), tmp_path / "transform.log")
    nursery.stop()
    deadline = time.monotonic() + WITHIN_S
    while psutil.pid_exists(child.pid) and psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
