"""`handrail up` as a person runs it: a Kafka of its own, two services that are ours, and every way in which it can end."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from handrail.kafka.admin import connect
from handrail.kafka.provision import partition_counts
from handrail.local.ports import free_port, is_free
from handrail.local.state import StackFolder, StackState

pytestmark = pytest.mark.kafka

PROJECT = Path(__file__).parents[2]
SERVICE = """\
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("alive", os.getpid(), flush=True)
while True:
    time.sleep(60)
"""
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


class Here:
    """A state folder, a port and stand-ins for the services, for `handrail` commands run in the project."""

    def __init__(self, folder: Path, port: int) -> None:
        self.home = folder / "home"
        self.port = port
        self.folder = StackFolder(self.home)
        self.started: list[subprocess.Popen[str]] = []
        modules = folder / "modules"
        for name in ("handrail_ingest", "handrail_action"):
            (modules / name).mkdir(parents=True)
            (modules / name / "__init__.py").write_text("")  # a package of ours goes before the installed one
            (modules / name / "__main__.py").write_text(SERVICE)
        self.env = {
            **os.environ,
            "HANDRAIL_HOME": str(self.home),
            "HANDRAIL_BOOTSTRAP": f"127.0.0.1:{port}",
            "PYTHONPATH": str(modules),
            "COLUMNS": "200",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from handrail.cli import main; main()", *arguments]

    def handrail(self, *arguments: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=PROJECT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=90,
            preexec_fn=before,
        )

    def up(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `handrail up` in a process group of its own, as a shell does, and return when it says ready."""
        process = subprocess.Popen(
            self.command("up", "--services", "ingest,action", *arguments),
            cwd=PROJECT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        assert process.stdout
        told = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("ready in "):
                return process
        pytest.fail("".join(told))

    def state(self) -> StackState:
        state = self.folder.read()
        assert state is not None
        return state

    def processes(self) -> list[psutil.Process]:
        """Everything that the running stack has started."""
        return [psutil.Process(one.pid) for one in self.state().processes if one.pid]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    here = Here(tmp_path, free_port())
    yield here
    for process in here.started:
        process.kill()
        process.communicate()
    if here.folder.is_locked():
        here.handrail("down")


def ends(process: subprocess.Popen[str]) -> tuple[int, str]:
    rest, _ = process.communicate(timeout=60)
    return process.returncode, rest


def nothing_is_left(processes: list[psutil.Process], here: Here) -> None:
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    assert not here.folder.is_locked()
    assert is_free(here.port)


def test_a_stack_is_told_apart_looked_at_and_ended_with_ctrl_c(here: Here) -> None:
    process = here.up()
    processes = here.processes()
    assert len(processes) == 3

    second = here.handrail("up")
    assert second.returncode == 1
    told = " ".join(second.stderr.split())
    assert f"a stack runs already in {here.home}: pid {process.pid}, Kafka at 127.0.0.1:{here.port}" in told
    assert "handrail down" in told

    status = here.handrail("status", "--json")
    assert status.returncode == 0, status.stdout + status.stderr
    told_state = json.loads(status.stdout)
    assert told_state["kafka_answers"] is True
    assert [one["state"] for one in (told_state["kafka"], *told_state["services"])] == ["running"] * 3

    listed = json.loads(here.handrail("topics", "list", "--json").stdout)
    assert {row["name"]: row["partitions"] for row in listed} == {row["name"]: row["present"] for row in listed}
    assert "alive" in here.handrail("logs", "ingest").stdout
    assert "0 created" in here.handrail("topics", "provision").stdout

    process.send_signal(signal.SIGINT)
    code, rest = ends(process)
    assert code == 0
    assert "Traceback" not in rest
    nothing_is_left(processes, here)
    assert not (here.home / "up.json").exists()

    assert here.handrail("status").returncode == 1
    assert json.loads(here.handrail("status", "--json").stdout)["state"] == "down"


def test_a_supervisor_killed_with_9_leaves_nothing_behind_and_the_next_goes_on_with_its_data(here: Here) -> None:
    process = here.up()
    processes = here.processes()
    before = partition_counts(connect(f"127.0.0.1:{here.port}"))
    process.kill()
    ends(process)
    nothing_is_left(processes, here)

    again = here.handrail("up", "--services", "ingest", "--detach")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "ready in " in again.stdout
    assert partition_counts(connect(f"127.0.0.1:{here.port}")) == before
    processes = here.processes()
    ended = here.handrail("down")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    nothing_is_left(processes, here)
    assert "nothing runs" in here.handrail("down").stdout


def test_kafka_itself_is_started_again_when_it_is_killed(here: Here) -> None:
    process = here.up()
    kafka = here.state().kafka
    assert kafka is not None
    assert kafka.pid is not None
    os.kill(kafka.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(kafka.pid)] if psutil.pid_exists(kafka.pid) else [], timeout=10)
    connect(f"127.0.0.1:{here.port}", within_s=30)
    now = here.state().kafka
    assert now is not None
    assert now.restarts == 1
    process.send_signal(signal.SIGTERM)
    assert ends(process)[0] == 0


def test_a_port_in_use_is_told_with_its_holder(here: Here) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", here.port))
        taken.listen()
        refused = here.handrail("up")
    assert refused.returncode == 2
    told = " ".join(refused.stderr.split())
    assert f"port {here.port} is in use by " in told
    assert f"(pid {os.getpid()})" in told
    assert "--port" in told
    assert not here.folder.is_locked()


def test_a_read_only_state_folder_is_told(here: Here) -> None:
    here.home.mkdir()
    here.home.chmod(0o500)
    refused = here.handrail("up", before=obey_permissions)
    assert refused.returncode == 2, refused.stderr
    told = " ".join(refused.stderr.split())
    assert f"{here.home}: the state folder can't be written: Permission denied" in told
    assert "HANDRAIL_HOME" in told


def test_a_full_state_folder_is_told(here: Here) -> None:
    (here.home / "kafka").mkdir(parents=True)
    (here.home / "kafka" / "server.properties").symlink_to("/dev/full")
    refused = here.handrail("up")
    assert refused.returncode == 2, refused.stderr
    told = " ".join(refused.stderr.split())
    assert f"{here.home / 'kafka'}: Kafka's data can't be written there: No space left on device" in told
    assert not here.folder.is_locked()


def test_a_disk_that_kafka_finds_full_ends_the_start_with_kafkas_own_words(here: Here) -> None:
    refused = here.handrail("up", before=small_files_only)
    assert refused.returncode != 0
    told = " ".join(refused.stderr.split())
    assert "File too large" in told
    assert "Traceback" not in told
    assert is_free(here.port)
    assert not here.folder.is_locked()


def test_a_changed_partition_count_is_refused_and_nothing_runs(here: Here, tmp_path: Path) -> None:
    process = here.up()
    process.send_signal(signal.SIGTERM)
    assert ends(process)[0] == 0
    standard = (PROJECT / "deploy" / "kafka" / "topics.yaml").read_text()
    (tmp_path / "topics.yaml").write_text(standard.replace("partitions: 4\n", "partitions: 8\n"))
    here.env["HANDRAIL_TOPICS"] = str(tmp_path / "topics.yaml")
    refused = here.handrail("up", "--services", "ingest")
    assert refused.returncode == 2
    told = " ".join(refused.stderr.split())
    assert "topic runs has 4 partitions, 8 are wanted" in told
    assert "Set `partitions` in topics.yaml back" in told
    assert is_free(here.port)


def test_ctrl_c_while_kafka_starts_ends_cleanly(here: Here) -> None:
    process = subprocess.Popen(
        here.command("up"), cwd=PROJECT, env=here.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    assert "starting Kafka" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, rest = ends(process)
    assert code == 0
    assert "Traceback" not in rest
    nothing_is_left([], here)


def test_an_unknown_service_is_a_usage_error(here: Here) -> None:
    refused = here.handrail("up", "--services", "ingets")
    assert refused.returncode == 2
    assert "no service 'ingets'" in refused.stderr


def obey_permissions() -> None:
    """Let root obey a folder's mode as everybody else does. Runs between fork and exec."""
    if os.geteuid() == 0:
        import ctypes

        if ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE) != 0:
            os._exit(77)


def small_files_only() -> None:
    """Let every file end at 64 KiB, as a disk would that fills up while Kafka starts. Runs between fork and exec."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, 64 * 1024))


def test_the_page_is_told_when_all_is_up_and_shows_how_it_goes(here: Here) -> None:
    up = here.handrail("up", "--services", "console,page", "--detach")
    assert up.returncode == 0, up.stdout + up.stderr
    told = re.search(r"how it goes: (http://127\.0\.0\.1:\d+/)", up.stdout)
    assert told, up.stdout
    assert f"page: {told[1]}" in here.handrail("status").stdout
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(told[1], timeout=20) as answer:
                assert b"<h1>Flows</h1>" in answer.read()
                return
        except OSError:
            assert time.monotonic() < until, here.handrail("logs", "page").stdout
            time.sleep(0.2)
