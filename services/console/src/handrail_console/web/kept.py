"""What is dear to compute is kept for a while: the longer it took, the longer."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

T = TypeVar("T")
AT_LEAST_S = 1.0
TIMES = 10.0
MOST = 64
FAILED_AT_MOST_S = 60.0


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    """A value, or the failure that was there instead."""

    value: T | Exception
    until: float
    failed: bool = False

    def get(self) -> T:
        if self.failed:
            raise cast(Exception, self.value).with_traceback(None)  # else it grows with each time
        return cast(T, self.value)


class Kept(Generic[T]):
    """One computation of each key at a time, whoever asks: so a page that many look at costs the ledger at most a tenth of
    a core, and one that is slow makes no other key wait.

    `failures` are kept as values are, for a minute at most: what took too long is not asked at once again.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, failures: tuple[type[Exception], ...] = ()) -> None:
        self._clock = clock
        self._failures = failures
        self._guard = threading.Lock()
        self._making: dict[object, threading.Lock] = {}
        self._made: OrderedDict[object, _Made[T]] = OrderedDict()

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The value of `key`, made anew when it was kept for ten times as long as it took (a second at least).

        While somebody else makes one, the old one is given; who has none waits.
        """
        with self._guard:
            old, making = self._made.get(key), self._making.setdefault(key, threading.Lock())
        if old is not None and (self._clock() < old.until or making.locked()):
            return old.get()
        with making:
            found = self._made.get(key)  # made while we waited?
            if found is None or self._clock() >= found.until:
                found = self._make(make)
                self._keep(key, found)
        return found.get()

    def _make(self, make: Callable[[], T]) -> _Made[T]:
        began = self._clock()
        try:
            value = make()
        except self._failures as error:
            return _Made(error, self._clock() + min(FAILED_AT_MOST_S, self._while(began)), failed=True)
        return _Made(value, self._clock() + self._while(began))

    def _while(self, began: float) -> float:
        return max(AT_LEAST_S, TIMES * (self._clock() - began))

    def _keep(self, key: object, made: _Made[T]) -> None:
        with self._guard:
            self._made[key] = made
            self._made.move_to_end(key)
            while len(self._made) > MOST:
                gone, _ = self._made.popitem(last=False)
                self._making.pop(gone, None)
