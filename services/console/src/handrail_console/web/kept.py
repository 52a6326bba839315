"""What is dear to compute is kept for a while: the longer it took, the longer."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
AT_LEAST_S = 1.0
TIMES = 10.0
MOST = 64


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    value: T
    until: float


class Kept(Generic[T]):
    """One computation at a time, whoever asks: so a page that many look at costs the ledger at most a tenth of a core."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._making = threading.Lock()
        self._made: OrderedDict[object, _Made[T]] = OrderedDict()

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The value of `key`, made anew when it was kept for ten times as long as it took (a second at least).

        While somebody else makes one, the old one is given; who has none waits.
        """
        old = self._made.get(key)
        if old is not None and (self._clock() < old.until or self._making.locked()):
            return old.value
        with self._making:
            found = self._made.get(key)  # made while we waited?
            began = self._clock()
            if found is not None and began < found.until:
                return found.value
            value = make()
            ended = self._clock()
            self._made[key] = _Made(value, ended + max(AT_LEAST_S, TIMES * (ended - began)))
            self._made.move_to_end(key)
            while len(self._made) > MOST:
                self._made.popitem(last=False)
            return value
