"""The input: in order, in many revisions, with copies and everything bad."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from handrail_chaos.stream import BOMBS, Sending, Stream
from handrail_demo.plain import PlainContracts
from handrail_demo.workload import BROKEN, UNDECODABLE

PLAIN = PlainContracts(Path(__file__).parents[2] / "contracts")
COUNT = 30_000


@pytest.fixture(scope="module")
def sent() -> list[Sending]:
    return list(itertools.islice(Stream(5, PLAIN.encode), COUNT))


def test_the_same_seed_gives_the_same_records(sent: list[Sending]) -> None:
    assert list(itertools.islice(Stream(5, PLAIN.encode), 500)) == sent[:500]
    assert list(itertools.islice(Stream(6, PLAIN.encode), 500)) != sent[:500]


def test_each_order_has_five_revisions_or_more_and_they_are_sent_in_order(sent: list[Sending]) -> None:
    revisions: dict[str, list[int]] = defaultdict(list)
    for one in sent:
        if one.revision is not None and "copy" not in one.kind:
            revisions[one.key].append(one.revision)
    assert all(found == list(range(1, len(found) + 1)) for found in revisions.values())
    ended = sorted(map(len, revisions.values()))[60:]  # sixty are under way
    assert ended[0] >= 5


def test_a_fifth_are_copies_of_what_was_sent_before(sent: list[Sending]) -> None:
    seen: dict[str, Sending] = {}
    copies = 0
    for one in sent:
        if one.kind.startswith("copy"):
            copies += 1
            original = seen[one.identity or ""]
            assert (one.key, one.value, one.headers) == (original.key, original.value, original.headers)
        elif one.identity is not None:
            assert one.identity not in seen
            seen[one.identity] = one
    assert 0.18 < copies / len(sent) < 0.22


def test_everything_bad_is_there(sent: list[Sending]) -> None:
    kinds = Counter(one.kind for one in sent)
    for what in (*UNDECODABLE, *BOMBS):
        assert kinds[f"undecodable:{what}"], what
    for what in BROKEN:
        assert kinds[f"broken:{what}"], what
    assert any(one.headers for one in sent if one.kind == "good")


def test_what_can_not_be_decoded_has_no_identity(sent: list[Sending]) -> None:
    assert all(one.identity is None for one in sent if one.kind.startswith("undecodable"))


def test_poison_can_be_raised_for_a_while() -> None:
    stream = Stream(1, PLAIN.encode)
    stream.poison = 0.5
    bad = sum(one.kind.startswith("undecodable") for one in itertools.islice(stream, 1_000))
    assert 400 < bad < 600
