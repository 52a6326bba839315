"""Headers: what we write can be read again, what is torn is refused, what is forged is not believed."""

from __future__ import annotations

import uuid
from contextlib import suppress

import pytest
from handrail.admission import arrive
from handrail.envelope import Replay
from handrail.errors import ContractBroken
from handrail.log import Record
from handrail.message import Headers, Run
from hypothesis import given
from hypothesis import strategies as st

from handrail import envelope

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
RUNS = st.none() | st.builds(
    Run,
    id=st.uuids().filter(lambda each: each.int != 0).map(str),
    flow=st.text(max_size=40),
    version=st.integers(0, (1 << 32) - 1),
)
REPLAYS = st.builds(
    Replay,
    letter=st.uuids().map(str),
    generation=st.integers(1, (1 << 32) - 1),
    topic=st.from_regex(r"[a-z.]{1,60}", fullmatch=True),
    partition=st.integers(0, 1_000),
    offset=st.integers(0, 1 << 62),
)


@given(st.text(min_size=1), RUNS, st.text(min_size=1, max_size=99), st.text(min_size=1, max_size=99), st.booleans())
def test_internal_headers_come_back_as_they_were(name: str, run: Run | None, cause: str, route: str, on: bool) -> None:
    trace = TRACE if on else None
    meta = envelope.read_internal(envelope.write_internal(name, "a/b.v1", trace, run, cause, route))
    assert (meta.id, meta.type, meta.traceparent) == (name, "a/b.v1", trace)
    assert (meta.run, meta.cause, meta.route) == (run, cause, route)


@given(REPLAYS)
def test_a_replay_header_comes_back_as_it_was(replay: Replay) -> None:
    header = envelope.write_replay(replay)
    assert envelope.read_replay((("x", b"1"), header)) == replay
    assert envelope.without_replay((("x", b"1"), header)) == (("x", b"1"),)


@given(st.binary(min_size=1, max_size=80))
def test_any_bytes_in_hr_are_read_or_refused_but_never_anything_else(raw: bytes) -> None:
    with suppress(ContractBroken):
        envelope.read_internal((("hr", raw),))


@given(REPLAYS, st.data())
def test_a_replay_header_that_was_cut_is_refused(replay: Replay, data: st.DataObject) -> None:
    name, raw = envelope.write_replay(replay)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ContractBroken):
        envelope.read_replay(((name, raw[:cut]),))


@given(st.binary(max_size=80))
def test_any_bytes_in_a_replay_header_are_a_valid_one_or_refused(raw: bytes) -> None:
    try:
        replay = envelope.read_replay((("hr-replay", raw),))
    except ContractBroken:
        return
    assert replay is not None
    assert replay.generation >= 1
    assert replay.partition >= 0
    assert replay.offset >= 0


def test_internal_headers_that_were_cut_are_refused() -> None:
    headers = envelope.write_internal("id", "a/b.v1", None, Run(str(uuid.uuid4()), "f", 1), "cause", "route")
    raw = dict(headers)["hr"] or b""
    for cut in range(1, len(raw)):
        with pytest.raises(ContractBroken):
            envelope.read_internal((("hr", raw[:cut]),))
    with pytest.raises(ContractBroken):
        envelope.read_internal((("hr", raw + b"x"),))
    with pytest.raises(ContractBroken):
        envelope.read_internal((("ce_id", b"\xff"),))


def test_headers_without_a_route_say_so_and_others_may_be_missing() -> None:
    assert envelope.read_internal(()) == envelope.Meta()
    assert envelope.read_internal((("ce_id", None), ("hr", None))) == envelope.Meta()


@pytest.mark.parametrize(
    "text", [b"", b"nonsense", TRACE[:-1].encode(), TRACE.upper().replace("1", "A").encode(), b"00-" + b"0" * 52]
)
def test_a_malformed_traceparent_is_dropped(text: bytes) -> None:
    assert envelope.read_public((("traceparent", text),)).traceparent is None
    assert envelope.read_internal((("traceparent", text),)).traceparent is None


def test_public_headers_are_not_believed_beyond_the_trace() -> None:
    ours = envelope.write_internal("id", "a/b.v1", TRACE, Run(str(uuid.uuid4()), "f", 1), "cause", "route")
    assert envelope.read_public(ours) == envelope.Meta(traceparent=TRACE)


def test_public_headers_are_cloudevents() -> None:
    headers = dict(envelope.write_public("1", "a/b.v1", "handrail/f", "k", "2026-11-21T00:00:00.000+00:00", TRACE))
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_id"] == b"1"
    assert headers["traceparent"] == TRACE.encode()
    assert envelope.read_public(tuple(headers.items())).traceparent == TRACE


@pytest.mark.parametrize("headers", [(("a", b""),) * 33, (("a", b"x" * 8_192),)])
def test_too_many_headers_or_bytes_are_refused(headers: Headers) -> None:
    with pytest.raises(ContractBroken):
        envelope.check_size(headers)


def test_as_many_as_are_allowed_pass() -> None:
    envelope.check_size((("a", b""),) * 32)
    envelope.check_size((("a", b"x" * 8_191),))


@pytest.mark.parametrize("public", [True, False])
@given(replay=REPLAYS)
def test_a_replay_header_on_an_inbox_is_forged_and_taken_off(public: bool, replay: Replay) -> None:
    record = Record("in", 0, 5, 0, b"k", b"v", (("x", b"1"), envelope.write_replay(replay)))
    arrival = arrive(record, inbox="in", public=public)
    assert arrival.replay is None
    assert arrival.record.headers == (("x", b"1"),)
    assert arrival.event == "in/0/5"
    ours = arrive(Record("s.replay", 0, 9, 0, b"k", b"v", record.headers), inbox="in", public=public)
    assert ours.replay == replay
    assert (ours.record.topic, ours.record.offset) == (replay.topic, replay.offset)
