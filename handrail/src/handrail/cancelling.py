"""Ending tasks of asyncio so that they do end."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_S = 0.1
GIVE_UP_S = 5.0


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended, for at most 5 s. What they raised is theirs to tell.

    Once is not enough: a cancellation is lost where the answer that `asyncio.wait_for` waits for comes at the same moment
    (python/cpython#86296, until 3.12), and libraries wait by it.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + GIVE_UP_S
    left = set(tasks)
    while left and loop.time() < deadline:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=AGAIN_S)
