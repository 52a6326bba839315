"""Starting and stopping child processes that never outlive us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO

from handrail.local import launch

Child = subprocess.Popen[bytes]


def tied(command: Sequence[str]) -> list[str]:
    """The command that runs this one so that it ends with the thread that starts it."""
    return [sys.executable, "-S", "-E", launch.__file__, str(os.getpid()), *command]


def spawn(command: Sequence[str], *, env: Mapping[str, str], output: int | IO[bytes]) -> Child:
    """Start `command` in a session of its own (a Ctrl-C goes to us alone), tied to our life by `launch`.

    Its output and its errors go to `output`. Raises OSError.
    """
    return subprocess.Popen(
        tied(command),
        env=dict(env),
        bufsize=0,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def terminate(children: Sequence[Child], within_s: float) -> list[Child]:
    """Ask all to end (SIGTERM), wait at most `within_s` for all together, then kill. Returns those killed."""
    for child in children:
        send(child, signal.SIGTERM)
    late = []
    deadline = time.monotonic() + within_s
    for child in children:
        try:
            child.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            late.append(child)
            send(child, signal.SIGKILL)
            child.wait()
    return late


def send(child: Child, number: signal.Signals) -> None:
    """Signal the child's whole session; no matter if it has ended."""
    if child.poll() is not None:
        return
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:  # it ended just now
        return


def sweep(child: Child) -> None:
    """Kill what an ended child has left behind in its session."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
