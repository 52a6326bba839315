"""Names of hosts are asked for so that a name server which does not answer holds up nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

Asked = tuple[Any, ...]


class Loop(asyncio.SelectorEventLoop):
    """An event loop that asks for each name in a thread of its own, and for the same name once at a time.

    The usual one has a few threads for all names and keeps one for each try until it is answered: soon nobody else's name
    is asked for. The threads are daemons, and nobody waits for them in the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._under_way: dict[Asked, asyncio.Future[Any]] = {}

    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the name that asyncio gives it
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As `socket.getaddrinfo`; whoever is cancelled leaves the question to the next one."""
        asked = (host, port, family, type, proto, flags)
        answer = self._under_way.get(asked)
        if answer is None:
            answer = self._under_way[asked] = self.create_future()
            threading.Thread(target=self._ask, args=(asked,), name="lookup", daemon=True).start()
        return await asyncio.shield(answer)

    def _ask(self, asked: Asked) -> None:
        found: Any = None
        error: Exception | None = None
        try:
            found = socket.getaddrinfo(*asked)
        except Exception as caught:  # OSError, and what a name that is none raises
            error = caught
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self.call_soon_threadsafe(self._answered, asked, found, error)

    def _answered(self, asked: Asked, found: Any, error: Exception | None) -> None:
        answer = self._under_way.pop(asked)
        if error is None:
            answer.set_result(found)
        else:
            answer.set_exception(error)
            answer.exception()  # there may be nobody left who asked
