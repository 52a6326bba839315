"""Asking the processes of a stack how they are."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from handrail.local.state import RUNNING, ProcessState

WITHIN_S = 2.0


def ask_all(processes: Iterable[ProcessState]) -> dict[str, str]:
    """What each running process that can be asked says of itself, by name: `ready`, or why it is not; or where it is."""
    asked = [one for one in processes if one.state == RUNNING and (one.http or one.page)]
    if not asked:
        return {}
    with ThreadPoolExecutor(len(asked)) as pool:
        return dict(zip((one.name for one in asked), pool.map(_ask, asked), strict=True))


def _ask(process: ProcessState) -> str:
    if process.page:
        return _look(process.page)
    try:
        with urllib.request.urlopen(f"http://{process.http}/ready", timeout=WITHIN_S) as answer:
            return told(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return told(error.read())
    except OSError as error:
        return f"does not answer ({getattr(error, 'reason', error)})"


def _look(page: str) -> str:
    """Whether what has a page answers, and where."""
    try:
        with urllib.request.urlopen(page, timeout=WITHIN_S) as answer:
            answer.read(1)
    except OSError as error:
        return f"does not answer at {page} ({getattr(error, 'reason', error)})"
    return f"answers at {page}"


def told(body: bytes) -> str:
    """The body of `/ready` in a line."""
    try:
        said = json.loads(body)
        stages = said["stages"]
        waiting = sum(stage["waiting"] for stage in stages)
        lag = sum(stage["lag"] for stage in stages)
        reasons = [f"{stage['stage']}: {reason}" for stage in stages for reason in stage["reasons"]]
    except (ValueError, KeyError, TypeError):
        return "gives no sensible answer"
    if reasons or not said["ready"]:
        return "; ".join(reasons) or "not ready"
    return "ready" + (f", {lag} to do" if lag else "") + (f", {waiting} waiting" if waiting else "")
