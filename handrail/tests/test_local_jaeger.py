"""Jaeger beside the services: which one is run, on which ports, and what is told to the others."""

from __future__ import annotations

import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from handrail.errors import ConfigError
from handrail.local import go, jaeger, processes
from handrail.local.asking import ask_all
from handrail.local.jaeger import PROGRAM, Jaeger, Ports
from handrail.local.member import Member
from handrail.local.ports import LOOPBACK, free_port
from handrail.local.services import Program
from handrail.local.state import RUNNING, UP, ProcessState, StackFolder, StackState
from handrail.settings import Settings
from handrail.telemetry import Telemetry
from handrail.traceparent import trace_id

PORTS = Ports(page=16686, otlp=4318, grpc=5)
DOCKER = """#!/bin/sh
echo "$*" >> "$0.asked"
exit {code}
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A machine with nothing on it."""
    monkeypatch.setattr(go, "_USUAL_PLACE", str(tmp_path / "nowhere"))
    return {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def put(env: dict[str, str], name: str, script: str) -> Path:
    file = Path(env["PATH"]) / name
    file.write_text(script)
    file.chmod(0o755)
    return file


def test_where_docker_answers_the_image_is_run(bare: dict[str, str], tmp_path: Path) -> None:
    put(bare, "docker", DOCKER.format(code=0))
    put(bare, "jaeger", "")
    found = Jaeger.find(bare, PORTS, pytest.fail)
    process = found.process(tmp_path / "state")
    assert found.program is None
    command = " ".join(process.command)
    assert command.startswith("docker run --rm --name handrail-jaeger-")
    assert "-p 127.0.0.1:16686:16686 -p 127.0.0.1:4318:4318" in command
    assert f"-v {tmp_path / 'state' / 'jaeger.yaml'}:/etc/jaeger.yaml:ro {jaeger.IMAGE}" in command
    assert list(process.before) == ["docker", "rm", "-f", process.command[4]], "what a kill -9 has left goes first"


WITHOUT_THE_IMAGE = """#!/bin/sh
echo "$*" >> "$0.asked"
case "$1" in image) exit 1 ;; pull) exit {code} ;; esac
"""


def asked_of_docker(env: dict[str, str]) -> list[str]:
    return (Path(env["PATH"]) / "docker.asked").read_text().splitlines()


def test_an_image_that_is_not_here_is_fetched_before_anything_is_started(bare: dict[str, str]) -> None:
    put(bare, "docker", WITHOUT_THE_IMAGE.format(code=0))
    said: list[str] = []
    assert Jaeger.find(bare, PORTS, said.append).program is None
    assert asked_of_docker(bare)[-1] == f"pull -q {jaeger.IMAGE}"
    assert said == [f"fetching {jaeger.IMAGE}, this one time"]


def test_where_the_image_can_t_be_fetched_the_program_is_run(bare: dict[str, str]) -> None:
    put(bare, "docker", WITHOUT_THE_IMAGE.format(code=1))
    with pytest.raises(ConfigError, match="Docker can't fetch its image, and there is no jaeger"):
        Jaeger.find(bare, PORTS, lambda _: None)
    program = put(bare, "jaeger", "")
    assert Jaeger.find(bare, PORTS, lambda _: None).program == program


def test_what_a_killed_stack_has_left_is_cleared_away_by_the_name_that_it_has(
    bare: dict[str, str], tmp_path: Path
) -> None:
    Jaeger.clear_away(bare, tmp_path)  # without Docker there is nothing
    put(bare, "docker", DOCKER.format(code=0))
    Jaeger.clear_away(bare, tmp_path)
    name = Jaeger(PORTS, None).process(tmp_path).command[4]
    assert asked_of_docker(bare) == [f"rm -f {name}"]


def test_where_docker_does_not_answer_the_program_of_the_path_is_run(bare: dict[str, str], tmp_path: Path) -> None:
    put(bare, "docker", DOCKER.format(code=1))
    program = put(bare, "jaeger", "")
    process = Jaeger.find(bare, PORTS, pytest.fail).process(tmp_path / "state")
    assert list(process.command) == [str(program), "--config", str(tmp_path / "state" / "jaeger.yaml")]
    written = yaml.safe_load((tmp_path / "state" / "jaeger.yaml").read_text())
    assert written["extensions"]["jaeger_query"]["http"]["endpoint"] == "127.0.0.1:16686"
    assert written["receivers"]["otlp"]["protocols"] == {"http": {"endpoint": "127.0.0.1:4318"}}


def test_a_machine_with_none_of_them_is_told_what_it_lacks(bare: dict[str, str]) -> None:
    with pytest.raises(
        ConfigError, match=r"Docker does not answer, and there is no jaeger .* install Go .* or go without it"
    ):
        Jaeger.find(bare, PORTS, pytest.fail)


def test_ports_that_are_taken_are_gone_round(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        taken = other.getsockname()[1]
        monkeypatch.setattr(jaeger, "JAEGER_PORT", taken)
        monkeypatch.setattr(jaeger, "OTLP_PORT", taken)
        ports = Ports.choose(None)
        assert taken not in (ports.page, ports.otlp)
        with pytest.raises(ConfigError, match=f"{taken}: the port is taken"):
            Ports.choose(f"http://127.0.0.1:{taken}")


def test_a_port_that_is_asked_for_is_taken() -> None:
    port = free_port()
    assert Ports.choose(f"http://localhost:{port}").page == port


@pytest.mark.parametrize("asked", ["http://jaeger.example.com:16686", "16686", "http://127.0.0.1:99999"])
def test_one_that_is_elsewhere_can_t_be_started_here(asked: str) -> None:
    with pytest.raises(ConfigError, match="on this machine"):
        Ports.choose(asked)


def test_services_are_told_where_to_send_over_what_the_shell_says() -> None:
    told = Jaeger(PORTS, None).settings()
    env = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://elsewhere:1/v1/traces"} | told
    assert env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "http://127.0.0.1:4318/v1/traces"
    assert env["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:4318"


def test_commands_find_the_jaeger_of_the_stack_that_runs_here(tmp_path: Path) -> None:
    page = "http://127.0.0.1:7777"
    folder = StackFolder(tmp_path)
    folder.acquire()
    processes_ = (ProcessState("jaeger", RUNNING, 1, 2, page=page), ProcessState("action", RUNNING, 3, 4))
    folder.write(StackState(1, 2, UP, "127.0.0.1:1", None, processes_))
    env = {"HANDRAIL_HOME": str(tmp_path)}
    assert Settings.from_env(env).jaeger == page
    assert Settings.from_env(env | {"HANDRAIL_JAEGER": "http://there:1/"}).jaeger == "http://there:1"
    assert Settings.from_env({"HANDRAIL_HOME": str(tmp_path / "none")}).jaeger == "http://127.0.0.1:16686"
    read = folder.read()
    folder.release()
    assert read is not None
    assert [one.page for one in read.services] == [page, None]


def test_status_says_where_it_is_and_whether_it_answers() -> None:
    away = f"http://127.0.0.1:{free_port()}"
    told = ask_all([ProcessState("jaeger", RUNNING, 1, 2, page=away)])
    assert told["jaeger"].startswith(f"does not answer at {away}")


def test_what_is_left_of_an_earlier_one_is_cleared_away_before_each_start(tmp_path: Path) -> None:
    before = ("/bin/sh", "-c", f"echo cleared >> {tmp_path}/before; exit 1")
    member = Member(Program("jaeger", ("/bin/true",), before, page="http://127.0.0.1:1"), dict(os.environ))
    member.start()
    assert (tmp_path / "before").read_text() == "cleared\n"
    assert member.state.page == "http://127.0.0.1:1"
    assert member.child is not None
    member.child.wait(10)
    assert any("ended" in line for line in member.see_end())
    assert member.state.page == "http://127.0.0.1:1"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Jaeger]:
    """The real one, where it is there already; building it is left to the tests with Kafka."""
    program = PROGRAM.present(os.environ)
    if program is None:
        pytest.skip("no jaeger on the PATH, and none was built yet: `handrail up --jaeger` builds one")
    one = Jaeger(Ports(free_port(), free_port(), free_port()), program)
    with (tmp_path / "jaeger.log").open("wb") as log:
        child = processes.spawn(one.process(tmp_path).command, env=os.environ, output=log)
    state = ProcessState("jaeger", RUNNING, child.pid, 0, page=one.page)
    deadline = time.monotonic() + 60
    while not ask_all([state])["jaeger"].startswith("answers"):
        assert child.poll() is None, (tmp_path / "jaeger.log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "jaeger.log").read_text()
    yield one
    assert processes.terminate([child], 20) == [], "it ends when it is asked to"


def test_the_real_one_takes_spans_and_gives_the_trace(running: Jaeger) -> None:
    telemetry = Telemetry.from_env("ingest", running.settings())
    context = telemetry.child(None, "a run")
    telemetry.record(stage="s", operation="process", parent=None, context=context, start_ns=1, end_ns=2)
    telemetry.shutdown()
    with urllib.request.urlopen(f"{running.page}/api/traces/{trace_id(context)}", timeout=10) as answer:
        assert b"handrail-ingest" in answer.read()
