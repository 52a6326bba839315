"""What libraries log is JSON among our own lines, and no flood."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from handrail.logs import REPEATED_S, InHand, Seldom, hear_libraries

EXPORTER = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def heard(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    handlers = [hear_libraries(), hear_libraries()]
    yield capsys
    for one in handlers:
        logging.getLogger().removeHandler(one)


def test_what_a_library_says_is_one_json_line_with_its_name_and_what_is_in_hand(
    heard: pytest.CaptureFixture[str],
) -> None:
    with InHand("a", None, f"00-{TRACE}-b7ad6b7169203331-01"):
        EXPORTER.warning("Transient error %s encountered\nwhile exporting", "Unavailable")
    logging.getLogger("uvicorn.error").info("Finished")
    out, err = heard.readouterr()
    (line,) = [json.loads(line) for line in out.splitlines()]
    assert line["event"] == "Transient error Unavailable encountered\nwhile exporting"
    assert (line["level"], line["logger"], line["trace"]) == ("warning", EXPORTER.name, TRACE)
    assert "timestamp" in line
    assert err == ""


def test_an_exception_in_a_library_is_a_part_of_its_line(heard: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    (line,) = heard.readouterr().out.splitlines()
    assert "ValueError: no" in json.loads(line)["exception"]


def test_what_is_said_again_and_again_is_heard_once_in_a_while(heard: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        EXPORTER.error("Failed to export span batch %s", number)
    EXPORTER.error("Something else")
    assert [json.loads(line)["event"] for line in heard.readouterr().out.splitlines()] == [
        "Failed to export span batch 0",
        "Something else",
    ]


def test_after_that_while_it_is_heard_again() -> None:
    now = [0.0]
    seldom = Seldom(lambda: now[0])
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "away", None, None)
    told = []
    for now[0] in (0.0, 1.0, REPEATED_S, REPEATED_S + 1):
        told.append(seldom.filter(record))
    assert told == [True, False, True, False]


def test_handlers_of_others_hear_it_all_the_same(
    heard: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    EXPORTER.warning("away")
    assert caplog.messages == ["away"]
    assert len(heard.readouterr().out.splitlines()) == 1, "made twice, it is there once"
