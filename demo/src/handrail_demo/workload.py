"""What the demo publishes, in which order. Pure: the same orders and the same recipe give the same bytes.

Of n orders a tenth has 2, 3 or 4 revisions (a third each), the others one. Each revision is one event, so 3,000 orders
are 3,600 events with as many identities. Of the events 1 % is broken: a critical field is missing or not valid. 5 % are
published again later, at distances from the next record to the end of the stream. On top come undecodable
records, 0.2 % of the events. For 3,000 orders: 3,600 events (36 of them broken), 180 copies, 7 undecodable records:
3,787 records with 3,607 identities.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Encode = Callable[[Mapping[str, Any]], bytes]
"""An event of orders/order-accepted.v1 in the Confluent wire format."""

GOOD, COPY = "good", "copy"

BROKEN: Mapping[str, Mapping[str, Any]] = {
    "missing-customer": {"customer_id": ""},
    "missing-currency": {"currency": ""},
    "missing-day": {"ordered_on": ""},
    "missing-order": {"order_id": ""},
    "zero-total": {"total_minor": 0},
    "negative-total": {"total_minor": -5},
    "no-currency-code": {"currency": "eu"},
    "no-day": {"ordered_on": "yesterday"},
    "revision-zero": {"revision": 0},
    "endless-order": {"order_id": "9" * 65},
}
"""What is wrong with a broken event: the fields that it has instead of good ones."""

UNDECODABLE = ("empty", "random", "wrong-magic", "truncated", "unknown-schema", "trailing", "null", "garbage")

_IDENTIFYING = frozenset({"order_id", "revision"})
_HEAD = 5
_UNKNOWN_SCHEMA = (0x3FFFFFFF).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the workload is mixed. Shares are of the events; `revised` is of the orders."""

    seed: int = 1
    revised: float = 0.10
    copied: float = 0.05
    broken: float = 0.01
    undecodable: float = 0.002


@dataclass(frozen=True, slots=True)
class Publication:
    """One record to publish.

    `kind` is good, copy, `broken:<what>`, `copy of broken:<what>` or `undecodable:<what>`. `identity` is
    `<order_id>/<revision>`; None where the record has none of its own, because it can't be decoded or just these fields
    are broken: then its coordinates identify it.
    """

    key: bytes | None
    value: bytes | None
    kind: str
    identity: str | None


def identity_of(event: Mapping[str, Any]) -> str:
    """`<order_id>/<revision>`: also the reference that billing knows the invoice by."""
    return f"{event['order_id']}/{event['revision']}"


def workload(orders: Sequence[Mapping[str, Any]], encode: Encode, recipe: Recipe) -> list[Publication]:
    """The records in the order in which they are to be published; the revisions of an order come in theirs."""
    dice = random.Random(recipe.seed)
    placed = _events(orders, dice, recipe)
    broken = _break_some(placed, dice, recipe)
    stream: list[tuple[float, Publication]] = []
    for number, (place, event) in enumerate(placed):
        what = broken.get(number)
        stream.append((place, _publication(event, what, encode)))
    stream += _copies(stream, dice, recipe)
    stream += _undecodable(placed, encode, dice, recipe)
    return [publication for _, publication in sorted(stream, key=lambda each: each[0])]


def _events(
    orders: Sequence[Mapping[str, Any]], dice: random.Random, recipe: Recipe
) -> list[tuple[float, dict[str, Any]]]:
    """Every revision of every order with its place in the stream, between 0 and 1."""
    revised = dice.sample(range(len(orders)), round(len(orders) * recipe.revised))
    revisions = {number: 2 + place % 3 for place, number in enumerate(revised)}
    placed = []
    for number, order in enumerate(orders):
        place = dice.random()
        for revision in range(1, revisions.get(number, 1) + 1):
            total = order["total_minor"] + 100 * (revision - 1)
            placed.append((place, {**order, "revision": revision, "total_minor": total}))
            place = _later(place, dice)
    return placed


def _later(place: float, dice: random.Random) -> float:
    """A later place: mostly near, so that copies meet in one batch, sometimes at the far end."""
    return place + (1 - place) * max(float(dice.random() ** 4), 1e-9)


def _break_some(placed: Sequence[object], dice: random.Random, recipe: Recipe) -> dict[int, str]:
    chosen = dice.sample(range(len(placed)), round(len(placed) * recipe.broken))
    kinds = list(BROKEN)
    return {number: kinds[turn % len(kinds)] for turn, number in enumerate(chosen)}


def _publication(event: Mapping[str, Any], what: str | None, encode: Encode) -> Publication:
    key = str(event["order_id"]).encode()
    if what is None:
        return Publication(key, encode(event), GOOD, identity_of(event))
    changed = {**event, **BROKEN[what]}
    identity = None if _IDENTIFYING & BROKEN[what].keys() else identity_of(event)
    return Publication(key, encode(changed), f"broken:{what}", identity)


def _copies(
    stream: Sequence[tuple[float, Publication]], dice: random.Random, recipe: Recipe
) -> list[tuple[float, Publication]]:
    """Later copies of records that have an identity, so that the copy is no new one."""
    own = [placed for placed in stream if placed[1].identity is not None]
    chosen = dice.sample(own, min(round(len(stream) * recipe.copied), len(own)))
    copies = []
    for place, one in chosen:
        kind = COPY if one.kind == GOOD else f"{COPY} of {one.kind}"
        copies.append((_later(place, dice), Publication(one.key, one.value, kind, one.identity)))
    return copies


def _undecodable(
    placed: Sequence[tuple[float, Mapping[str, Any]]], encode: Encode, dice: random.Random, recipe: Recipe
) -> list[tuple[float, Publication]]:
    records = []
    for turn in range(round(len(placed) * recipe.undecodable)):
        what = UNDECODABLE[turn % len(UNDECODABLE)]
        _, event = placed[dice.randrange(len(placed))]
        value = spoilt(what, encode(event), dice)
        key = None if what == "empty" else str(event["order_id"]).encode()
        records.append((dice.random(), Publication(key, value, f"undecodable:{what}", None)))
    return records


def spoilt(what: str, good: bytes, dice: random.Random) -> bytes | None:
    """A record of this kind (see UNDECODABLE) made of the bytes of a good one."""
    match what:
        case "null":
            return None
        case "empty":
            return b""
        case "random":
            return b"\xff" + dice.randbytes(dice.randint(1, 200))
        case "wrong-magic":
            return b'{"order_id": "1", "revision": 1}'
        case "truncated":
            return good[: dice.randint(_HEAD + 1, len(good) - 1)]
        case "unknown-schema":
            return good[:1] + _UNKNOWN_SCHEMA + good[_HEAD:]
        case "trailing":
            return good + dice.randbytes(dice.randint(1, 20))
        case _:  # garbage: a known schema, then a number that never ends
            return good[:_HEAD] + b"\xff" * 40
