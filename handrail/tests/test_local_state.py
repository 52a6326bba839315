"""Who runs the stack of a folder."""

import os
from pathlib import Path

import pytest
from handrail.errors import ConfigError, StateError
from handrail.local.services import SERVICES, choose
from handrail.local.state import RUNNING, UP, WAITING, AlreadyRunning, ProcessState, StackFolder, StackState


def some_state() -> StackState:
    kafka = ProcessState("kafka", RUNNING, 11, since=1_700_000_000_000)
    ingest = ProcessState("ingest", WAITING, None, since=1_700_000_000_001, restarts=3, note="killed by SIGKILL")
    return StackState(os.getpid(), 1_700_000_000_000, UP, "127.0.0.1:19092", kafka, (ingest,))


def test_a_state_survives_its_file() -> None:
    state = some_state()
    assert StackState.from_json(state.to_json()) == state
    assert not state.whole


def test_a_second_stack_in_a_folder_is_refused_and_told_who_runs(tmp_path: Path) -> None:
    first = StackFolder(tmp_path)
    first.acquire()
    first.write(some_state())
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}, Kafka at 127.0.0.1:19092.*handrail down"):
        StackFolder(tmp_path).acquire()
    first.release()


def test_a_file_that_a_killed_supervisor_left_says_nothing(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path)
    folder.write(some_state())
    assert folder.read() is None
    folder.acquire()
    folder.release()


def test_releasing_leaves_no_state(tmp_path: Path) -> None:
    folder = StackFolder(tmp_path)
    folder.acquire()
    folder.write(some_state())
    assert StackFolder(tmp_path).read() == some_state()
    folder.release()
    assert StackFolder(tmp_path).read() is None
    assert not (tmp_path / "up.json").exists()


def test_a_folder_that_cannot_be_made_is_told_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match=r"state folder can't be written: .*HANDRAIL_HOME"):
        StackFolder(tmp_path / "file" / "home").acquire()


def test_all_services_are_run_unless_some_are_named() -> None:
    assert choose() == SERVICES
    assert [service.name for service in choose(["ingest", "action"])] == ["action", "ingest"]
    assert [service.name for service in choose(["ingest"], sandbox=True)] == ["sandbox", "ingest"]


def test_an_unknown_service_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no service 'ingets': there are sandbox, console, .*ingest"):
        choose(["ingets"])
