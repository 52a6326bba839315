"""Ingest: is it by its contract, which run is it, and which version of the flow handles it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from handrail.envelope import MAX_ROUTE_BYTES
from handrail.errors import ContractBroken
from handrail.identity import run_id
from handrail.message import Due, Finished, Message, Output, Run
from handrail.pending import View


@dataclass(frozen=True, slots=True)
class Ingest:
    """The handler of one flow's source. `check` raises ContractBroken for a missing or invalid field."""

    flow: str
    version: int
    key: str
    dedupe: tuple[str, ...]
    check: Callable[[str, Mapping[str, Any]], None]

    def __call__(self, given: Message | Due | Finished, _view: View) -> Iterable[Output]:
        """The event as it came, keyed by its route; its id is the run's, so that business duplicates meet at transform."""
        if not isinstance(given, Message):
            raise TypeError(f"ingest sets no timers and starts no work, yet {type(given).__name__} came")
        self.check(given.type, given.body)
        route = str(given.body[self.key])
        if not route or len(route.encode()) > MAX_ROUTE_BYTES:
            raise ContractBroken(
                f"the key {self.key} must have 1 to {MAX_ROUTE_BYTES} bytes, it has {len(route.encode())}",
                field=self.key,
            )
        id_ = run_id(self.flow, {name: str(given.body[name]) for name in self.dedupe})
        run = Run(id_, self.flow, self.version)
        return [Output(f"{self.flow}.transform", given.type, route, value=given.value, run=run, id=id_)]
