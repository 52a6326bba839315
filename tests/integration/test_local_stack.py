"""The supervisor with small services of the test's own, on the test run's Kafka."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from handrail.errors import HandrailError
from handrail.kafka.topics import Topology
from handrail.local.services import Service
from handrail.local.state import BROKEN, RUNNING, STOPPED, WAITING, AlreadyRunning, ProcessState
from handrail.local.supervisor import Stack
from handrail.testing.broker import Broker

pytestmark = pytest.mark.kafka

STEADY = """\
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("alive", os.getpid(), os.environ["HANDRAIL_BOOTSTRAP"], os.environ.get("MOOD"), flush=True)
while True:
    time.sleep(60)
"""
STUBBORN = """\
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
MISTAKEN = "import sys\nprint('flows/x.yaml:3: no such step', file=sys.stderr)\nsys.exit(2)\n"
CRASHING = "import os\nprint('no end of line', end='', flush=True)\nos._exit(3)\n"


class Seen:
    """What the stack logged, waited for without polling."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self._changed = threading.Condition()

    def __call__(self, service: str, line: str) -> None:
        with self._changed:
            self.lines.append((service, line))
            self._changed.notify_all()

    def wait(self, holds: Callable[[list[tuple[str, str]]], bool], timeout: float = 20.0) -> list[tuple[str, str]]:
        with self._changed:
            assert self._changed.wait_for(lambda: holds(self.lines), timeout), self.lines
            return list(self.lines)

    def first(self, start: str) -> str:
        lines = self.wait(lambda lines: any(line.startswith(start) for _, line in lines))
        return next(line for _, line in lines if line.startswith(start))


class Running:
    """A stack of fake services and what it logged."""

    def __init__(self, stack: Stack, seen: Seen) -> None:
        self.stack = stack
        self.seen = seen

    def state(self, name: str) -> ProcessState:
        return next(process for process in self.stack.state().services if process.name == name)


@pytest.fixture
def run(kafka: Broker, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    stacks: list[Stack] = []

    def start(grace_s: float = 10.0, on_log: Callable[[str, str], None] | None = None, **services: str) -> Running:
        for name, source in services.items():
            (tmp_path / f"fake_{name}.py").write_text(source)
        seen = Seen()
        stack = Stack(
            tmp_path / "home",
            services=[Service(name, f"fake_{name}") for name in services],
            env={"MOOD": "calm"},
            per_service_env={"other": {"MOOD": "wild"}},
            python_path=[tmp_path],
            on_log=on_log or seen,
            bootstrap=kafka.bootstrap,
            topology=Topology(),
            grace_s=grace_s,
        )
        stacks.append(stack)
        stack.start()
        return Running(stack, seen)

    yield start
    for stack in stacks:
        stack.stop()


def test_services_run_with_their_environment_and_end_in_order(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(one=STEADY, other=STEADY)
    lines = running.seen.wait(lambda lines: len(lines) == 2)
    pids = running.stack.pids()
    bootstrap = running.stack.bootstrap
    assert sorted(lines) == [
        ("one", f"alive {pids['one']} {bootstrap} calm"),
        ("other", f"alive {pids['other']} {bootstrap} wild"),
    ]
    running.stack.stop()
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert [running.state(name).note for name in ("one", "other")] == ["exit code 0", "exit code 0"]
    assert not (tmp_path / "home" / "up.json").exists()
    assert (tmp_path / "home" / "logs" / "one.log").read_text() == f"alive {pids['one']} {bootstrap} calm\n"


def test_a_killed_service_is_started_again_and_the_others_are_left_alone(run: Callable[..., Running]) -> None:
    running = run(one=STEADY, other=STEADY)
    before = running.stack.pids()
    killed = running.stack.kill9("one")
    assert killed == before["one"]
    after = running.stack.wait_restarted("one", killed, timeout=10)
    assert running.stack.pids() == {"one": after, "other": before["other"]}
    assert running.state("one").restarts == 1
    assert "killed by SIGKILL; starts again in 0.2 s" in running.seen.first("[supervisor] ended")


def test_a_service_that_keeps_crashing_is_started_again_more_and_more_slowly(run: Callable[..., Running]) -> None:
    running = run(one=CRASHING)
    lines = running.seen.wait(lambda lines: sum("ended" in line for _, line in lines) == 3)
    told = [line for _, line in lines]
    assert told[0] == "no end of line"
    waits = [line.rpartition(" in ")[2] for line in told if "ended" in line]
    assert waits == ["0.2 s", "0.4 s", "0.8 s"]
    assert running.state("one").state in {WAITING, RUNNING}


def test_a_config_error_is_shown_and_not_repeated_in_a_tight_loop(run: Callable[..., Running]) -> None:
    running = run(one=MISTAKEN, other=STEADY)
    ended = running.stack.settle(alive_s=10.0)
    assert [(process.name, process.state) for process in ended] == [("one", BROKEN)]
    assert running.seen.first("flows/x.yaml") == "flows/x.yaml:3: no such step"
    assert "starts again in 30 s" in running.seen.first("[supervisor] ended")
    assert not running.stack.state().whole


def test_one_service_can_be_ended_and_started_while_the_others_go_on(run: Callable[..., Running]) -> None:
    running = run(one=STEADY, other=STEADY)
    running.seen.wait(lambda lines: len(lines) == 2)
    before = running.stack.pids()
    running.stack.stop_service("one")
    assert running.stack.pids() == {"other": before["other"]}
    assert running.state("one").state == STOPPED
    assert running.stack.start_service("one") != before["one"]
    assert running.stack.pids()["other"] == before["other"]


def test_a_service_that_will_not_end_is_killed_with_all_that_it_started(run: Callable[..., Running]) -> None:
    running = run(grace_s=0.3, one=STUBBORN)
    grandchild = psutil.Process(int(running.seen.first("child ").split()[1]))
    running.stack.stop()
    _, alive = psutil.wait_procs([grandchild], timeout=5)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert running.state("one").note == "killed by SIGKILL"


def test_a_crashed_service_leaves_no_process_of_its_own_behind(run: Callable[..., Running]) -> None:
    running = run(grace_s=0.3, one=STUBBORN)
    grandchild = psutil.Process(int(running.seen.first("child ").split()[1]))
    killed = running.stack.kill9("one")
    running.stack.wait_restarted("one", killed)
    _, alive = psutil.wait_procs([grandchild], timeout=5)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def test_a_second_stack_in_the_same_folder_is_refused(run: Callable[..., Running]) -> None:
    running = run(one=STEADY)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}, Kafka at {running.stack.bootstrap}"):
        run(other=STEADY)
    assert set(running.stack.pids()) == {"one"}


def test_what_is_not_running_cannot_be_killed(run: Callable[..., Running]) -> None:
    running = run(one=STEADY)
    with pytest.raises(HandrailError, match="transform does not run"):
        running.stack.kill9("transform")


def test_a_console_that_nobody_reads_does_not_end_the_stack(run: Callable[..., Running], tmp_path: Path) -> None:
    broken = BrokenPipeError("nobody reads")

    def fail(_service: str, _line: str) -> None:
        raise broken

    running = run(on_log=fail, one=STEADY)
    after = running.stack.wait_restarted("one", running.stack.kill9("one"))
    log = tmp_path / "home" / "logs" / "one.log"
    deadline = time.monotonic() + 10
    while f"alive {after}" not in log.read_text():  # a file tells nobody when it changes
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert running.state("one").state == RUNNING
