"""Starts services without their two seconds of imports: a process that has imported them forks one for each start.

A storm starts hundreds of processes; on few cores it would measure Python's import and little else. The nursery imports
the services and makes nothing: no thread, no client, no file. So what it forks is as good as a new process: its own
session, its own environment, its own id, killed by the kernel when the nursery ends, as that is when its own parent ends.

It is told what to start on stdin and tells what has happened on stdout, a line of JSON each.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from handrail.local import launch

from handrail_chaos.errors import ChaosError

_ANSWER_S = 60.0


class Born:
    """A process that the nursery has forked; to be used as a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def poll(self) -> int | None:
        """How it ended; None while it lives."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended. Raises subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout or 0.0)
        return self.returncode

    def has_ended(self, code: int) -> None:
        """It ended so: a negative code is a signal."""
        self.returncode = code
        self._ended.set()


class Nursery:
    """The other end of the pipe. Make it in a thread that lives as long (handrail.local.launch)."""

    def __init__(self, modules: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """`modules` are the packages of services; `env` is that of the nursery (PYTHONPATH counts)."""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-E", launch.__file__, str(os.getpid())),
                    *(sys.executable, "-m", __name__, *modules),
                ],
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._log = log
        self._children: dict[int, Born] = {}
        self._early: dict[int, int] = {}
        self._answers: list[int] = []
        self._changed = threading.Condition()
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listener.start()

    def start(self, module: str, env: Mapping[str, str], log: Path) -> Born:
        """Fork one that runs `python -m <module>` with this environment and its output appended to `log`."""
        assert self._process.stdin is not None
        order = {"module": module, "env": dict(env), "log": str(log)}
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChaosError(f"the nursery has ended ({error}): see {self._log}") from error
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._answers), _ANSWER_S):
                raise ChaosError(f"the nursery does not start {module}: see {self._log}")
            born = Born(self._answers.pop(0))
            if born.pid in self._early:
                born.has_ended(self._early.pop(born.pid))
            else:
                self._children[born.pid] = born
            return born

    def stop(self) -> None:
        """End it, and with it what it has started."""
        self._process.kill()
        self._process.wait()
        self._listener.join(5.0)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            with self._changed:
                if "code" not in told:
                    self._answers.append(told["pid"])
                elif told["pid"] in self._children:
                    self._children.pop(told["pid"]).has_ended(told["code"])
                else:
                    self._early[told["pid"]] = told["code"]
                self._changed.notify_all()


def main(modules: Sequence[str]) -> None:
    """The nursery itself: import, then fork when told to, until stdin ends."""
    for module in modules:
        __import__(f"{module}.bootstrap")
    readable, writable = os.pipe()
    for descriptor in (readable, writable):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writable)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(readable, selectors.EVENT_READ)
    rest = b""
    while True:
        for key, _ in selector.select():
            if key.fd == readable:
                os.read(readable, 4_096)
                _reap()
                continue
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _say(pid=_fork(json.loads(line), selector, (readable, writable)))


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            _say(pid=pid, code=os.waitstatus_to_exitcode(status))


def _say(**told: int) -> None:
    os.write(1, json.dumps(told).encode() + b"\n")


def _fork(order: Mapping[str, Any], selector: selectors.BaseSelector, pipe: tuple[int, int]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(order, selector, pipe, parent)
    return pid


def _become(order: Mapping[str, Any], selector: selectors.BaseSelector, pipe: tuple[int, int], parent: int) -> NoReturn:
    """In the forked process: nothing of the nursery is left, then the service runs as it would by itself."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(launch.PR_SET_PDEATHSIG, launch.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    selector.close()
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    for descriptor in (*pipe, log, nothing):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["env"])
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = [order["module"]]
    code = 1
    try:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
