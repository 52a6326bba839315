"""What processes say of themselves, in a line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from handrail.health import readiness
from handrail.local.asking import ask_all, told
from handrail.local.ports import free_port
from handrail.local.state import RUNNING, WAITING, ProcessState
from handrail.vitals import Vitals


@pytest.mark.parametrize(
    ("vitals", "line"),
    [
        ([Vitals("a", "idle")], "ready"),
        ([Vitals("a", "idle", lag={0: 2, 1: 3}), Vitals("b", "idle", waiting=4)], "ready, 5 to do, 4 waiting"),
        ([Vitals("a", "idle"), Vitals("b")], "b: is starting"),
        ([], "not ready"),
    ],
)
def test_readiness_is_told_in_a_line(vitals: list[Vitals], line: str) -> None:
    assert told(json.dumps(readiness(vitals)).encode()) == line


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"ready": true, "stages": [1]}', b"<html>"])
def test_an_answer_of_somebody_else_is_said_to_be_none(body: bytes) -> None:
    assert told(body) == "gives no sensible answer"


def test_who_does_not_answer_is_said_and_who_does_not_run_is_not_asked() -> None:
    def process(name: str, **given: Any) -> ProcessState:
        return ProcessState(name, given.pop("state", RUNNING), 1, since=0, **given)

    nowhere = f"127.0.0.1:{free_port()}"
    told_of = ask_all([process("a", http=nowhere), process("b"), process("c", state=WAITING, http=nowhere)])
    assert list(told_of) == ["a"]
    assert told_of["a"].startswith("does not answer")
