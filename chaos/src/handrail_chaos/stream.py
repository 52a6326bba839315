"""The input: orders without end, each in at least five revisions, with copies and with everything that is bad. Pure.

The same seed gives the same records, but for the share of bad ones, which may be raised for a while.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from handrail_demo.workload import BROKEN, COPY, GOOD, UNDECODABLE, identity_of, spoilt

Encode = Callable[[str, Mapping[str, Any]], bytes]
"""A value of a contract in the Confluent wire format, unchecked."""

CONTRACT = "orders/order-accepted.v1"
NESTED = "handrail/run-state.v1"
"""A contract with maps, by whose id bombs are sent."""
MIB = 1_048_576

REVISIONS = (5, 8)
OPEN_ORDERS = 60
REMEMBERED = 3_000
COPIED = 0.20
BROKEN_SHARE = 0.01
POISON_SHARE = 0.005
REVIEWED = REJECTED = 0.01

BOMBS = ("item-bomb", "deep", "oversized", "huge", "33-headers", "9-KiB-headers")
HOSTILE: Mapping[str, tuple[tuple[str, bytes], ...]] = {
    "forged-replay": (("hr-replay", b"\x01" * 60), ("hr", b"\xff\xff"), ("ce_id", b"\xff")),
    "no-trace": (("traceparent", b"00-zz-11-01"), ("tracestate", b"\xff" * 100)),
    "32-headers": tuple((f"h{n}", b"x") for n in range(32)),
}
"""Headers that are odd, on events that are good."""

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Sending:
    """One record to publish. `kind`, `identity` as in handrail_demo.workload.Publication; `key` is the order's number."""

    key: str
    value: bytes | None
    kind: str
    identity: str | None
    revision: int | None = None
    headers: Headers = ()
    keyed: bool = True


@dataclass(slots=True)
class _Order:
    number: str
    last: int
    customer: int
    next: int = 1


class Stream:
    """Iterate to get one Sending after the other, for ever."""

    def __init__(self, seed: int, encode: Encode) -> None:
        self.poison = POISON_SHARE
        self._dice = random.Random(f"{seed}/stream")
        self._encode = encode
        self._count = 0
        self._orders = [self._order() for _ in range(OPEN_ORDERS)]
        self._sent: deque[Sending] = deque(maxlen=REMEMBERED)

    def __iter__(self) -> Iterator[Sending]:
        while True:
            yield self.next()

    def next(self) -> Sending:
        """The next record."""
        turn = self._dice.random()
        if turn < self.poison:
            return self._poison()
        if turn < self.poison + COPIED and self._sent:
            return self._copy()
        one = self._event()
        self._sent.append(one)
        return one

    def _order(self) -> _Order:
        self._count += 1
        return _Order(f"{self._count}", self._dice.randint(*REVISIONS), self._dice.randrange(1, 1_500))

    def _event(self) -> Sending:
        at = self._dice.randrange(len(self._orders))
        order = self._orders[at]
        event = self._body(order, order.next)
        order.next += 1
        if order.next > order.last:
            self._orders[at] = self._order()
        identity, revision = identity_of(event), int(event["revision"])
        if self._dice.random() < BROKEN_SHARE:
            what = self._dice.choice(list(BROKEN))
            unnamed = BROKEN[what].keys() & {"order_id", "revision"}
            value = self._encode(CONTRACT, {**event, **BROKEN[what]})
            return Sending(order.number, value, f"broken:{what}", None if unnamed else identity, revision)
        headers = self._dice.choice(list(HOSTILE.values())) if self._dice.random() < self.poison else ()
        return Sending(order.number, self._encode(CONTRACT, event), GOOD, identity, revision, headers)

    def _copy(self) -> Sending:
        """Of a recent record, mostly of one just sent: copies meet within a batch, and long after the original."""
        back = int(len(self._sent) * self._dice.random() ** 4)
        one = self._sent[-1 - back]
        if one.identity is None:
            return self._event()
        kind = COPY if one.kind == GOOD else f"{COPY} of {one.kind}"
        return Sending(one.key, one.value, kind, one.identity, one.revision, one.headers)

    def _poison(self) -> Sending:
        order = self._dice.choice(self._orders)
        what = self._dice.choice((*UNDECODABLE, *BOMBS))
        event = self._body(order, 1)
        headers: Headers = ()
        match what:
            case "item-bomb":  # a few bytes that say: two thousand million items follow
                value: bytes | None = self._encode(CONTRACT, event)[:5] + b"\xfe\xff\xff\xff\x0f" * 3
            case "deep":
                value = self._nested() + b"\x02" * 20_000
            case "oversized":
                value = self._encode(CONTRACT, {**event, "customer_name": "x" * (MIB + 1)})
            case "huge":
                value = self._encode(CONTRACT, {**event, "customer_name": "x" * 1_280_000})
            case "33-headers":
                value, headers = self._encode(CONTRACT, event), tuple((f"h{n}", b"") for n in range(33))
            case "9-KiB-headers":
                value, headers = self._encode(CONTRACT, event), (("h", b"x" * 9 * 1024),)
            case _:
                value = spoilt(what, self._encode(CONTRACT, event), self._dice)
        return Sending(order.number, value, f"undecodable:{what}", None, None, headers, keyed=what != "empty")

    def _nested(self) -> bytes:
        return self._encode(NESTED, EMPTY_RUN)[:5]

    def _body(self, order: _Order, revision: int) -> dict[str, Any]:
        lot = self._dice.random()
        total, balance = self._dice.randrange(100_000, 19_000_000), self._dice.randrange(0, 900_000)
        if lot < REVIEWED:
            total = self._dice.randrange(34_000_001, 46_000_000)
        elif lot < REVIEWED + REJECTED:
            total, balance = self._dice.randrange(20_000_001, 34_000_000), -self._dice.randrange(50_001, 99_000)
        return {
            "order_id": order.number,
            "revision": revision,
            "customer_id": str(order.customer),
            "customer_name": f"Customer#{order.customer:09}",
            "segment": "MACHINERY",
            "account_balance_minor": balance,
            "total_minor": total,
            "currency": "EUR",
            "ordered_on": "1996-01-02",
        }


EMPTY_RUN: Mapping[str, Any] = {
    "run": "", "flow": "", "version": 1, "route": "", "state": "acting", "step": None, "step_index": 0, "revision": 1,
    "sequence": 0, "event": b"", "request": b"", "decision": None, "responses": {}, "task": None, "dedupe": {},
    "first_failure_at": None, "started_at": 0, "updated_at": 0,
}  # fmt: skip
