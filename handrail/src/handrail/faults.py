"""Named fault points for tests: a process kills itself, as by `kill -9`, at a chosen point of a chosen stage."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path

from handrail.errors import ConfigError
from handrail.log import FAULT_POINTS, Fault, no_fault

_IN_COMMIT_S = 0.002  # a commit takes 3 to 20 ms


def from_env(env: Mapping[str, str], stage: str) -> Fault:
    """The fault hook of one stage.

    `HANDRAIL_FAULT=<stage>:<point>:<n>:<flag file>` kills the process at the n-th hit of the point, once: the flag file
    is written first and says that it has happened. At `in-commit` it happens a moment later, while the commit is under way.
    Raises ConfigError for an unknown point.
    """
    text = env.get("HANDRAIL_FAULT", "")
    if not text:
        return no_fault
    wanted_stage, point, nth, flag = text.split(":", 3)
    if point not in FAULT_POINTS:
        raise ConfigError(f"HANDRAIL_FAULT: no fault point {point!r}; there are {', '.join(FAULT_POINTS)}")
    if wanted_stage != stage:
        return no_fault
    path, left = Path(flag), int(nth)

    def fault(hit: str) -> None:
        nonlocal left
        if hit != point or path.exists():
            return
        left -= 1
        if left <= 0:
            path.write_text(text)
            if hit == "in-commit":
                threading.Timer(_IN_COMMIT_S, _kill).start()
            else:
                _kill()

    return fault


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
