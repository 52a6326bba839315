"""Transform: what the event means for the systems that follow. Duplicates were dropped by the stage. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from handrail.message import Due, Finished, Message, Output
from handrail.pending import View

PREPARED = "handrail/prepared.v1"


@dataclass(frozen=True, slots=True)
class Transform:
    """The handler of one flow. `mapping` gives the flow's function for a version; `encode` the request by its contract."""

    flow: str
    mapping: Callable[[int], Callable[[Mapping[str, Any]], Mapping[str, Any]]]
    encode: Callable[[int, Mapping[str, Any]], bytes]

    def __call__(self, given: Message | Due | Finished, _view: View) -> Iterable[Output]:
        """The event and the request that was made of it."""
        if not isinstance(given, Message) or given.run is None:
            raise TypeError(f"transform takes stamped events only, not {given!r}")
        run = given.run
        request = self.encode(run.version, self.mapping(run.version)(given.body))
        body = {"run": run.id, "flow": run.flow, "version": run.version, "event": given.value, "request": request}
        return [Output(f"{self.flow}.decision", PREPARED, given.key, body=body, run=run)]
