"""Who runs the stack of a folder."""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from handrail.cli.up import status
from handrail.errors import ConfigError, StateError
from handrail.local import member
from handrail.local.member import Member
from handrail.local.ports import LOOPBACK, free_port
from handrail.local.services import SERVICES, Service, choose
from handrail.local.state import RUNNING, UP, WAITING, AlreadyRunning, ProcessState, StackFolder, StackState
from typer.testing import CliRunner


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


def test_the_page_is_told_while_it_runs_and_not_afterwards() -> None:
    page = ProcessState("page", RUNNING, 12, since=0, web="127.0.0.1:19080")
    state = StackState(os.getpid(), 0, UP, "127.0.0.1:19092", None, (page,))
    assert StackState.from_json(state.to_json()).web == "http://127.0.0.1:19080/"
    assert replace(state, services=(replace(page, state=WAITING),)).web is None
    assert some_state().web is None


def test_status_says_where_the_page_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDRAIL_HOME", str(tmp_path))
    page = ProcessState("page", RUNNING, 12, since=0, web="127.0.0.1:19080")
    folder = StackFolder(tmp_path)
    folder.acquire()
    folder.write(StackState(os.getpid(), 0, UP, "127.0.0.1:1", None, (page,)))
    app = typer.Typer()
    app.command()(status)
    said = CliRunner().invoke(app, []).output
    folder.release()
    assert "page: http://127.0.0.1:19080/" in said
    assert "Kafka does not answer at 127.0.0.1:1" in said


def told_place(one: Member) -> str | None:
    """Where the process that is started now was told to show its page; the state must say the same."""
    one.start()
    assert one.child is not None
    one.child.wait(60)
    web = one.state.web
    said = [line for line in one.see_end() if "supervisor" not in line]
    assert said == [str(web)]
    return web


def test_the_page_s_place_is_chosen_at_each_start_so_that_nobody_has_it_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "says_its_place.py").write_text("import os; print(os.environ.get('HANDRAIL_WEB'))")
    env = {name: value for name, value in os.environ.items() if name != "HANDRAIL_WEB"} | {"PYTHONPATH": str(tmp_path)}
    page = Service("page", "says_its_place", web=True)
    assert told_place(Member(page, env | {"HANDRAIL_WEB": "0.0.0.0:8080"})) == "0.0.0.0:8080"
    assert told_place(Member(Service("ingest", "says_its_place"), env)) is None
    monkeypatch.setattr(member, "WEB_PORT", free_port())
    one = Member(page, env)
    with socket.socket() as other:
        other.bind((LOOPBACK, member.WEB_PORT))
        other.listen()
        first = told_place(one)
        assert first != f"{LOOPBACK}:{member.WEB_PORT}", "taken since the stack was made"
    assert told_place(one) == first, "it stays where people know it to be"
    with socket.socket() as other:
        other.bind((LOOPBACK, int(str(first).rpartition(":")[2])))
        other.listen()
        assert told_place(one) != first, "unless somebody else is there by now"
