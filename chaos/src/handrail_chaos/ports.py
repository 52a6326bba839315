"""Ports that stay ours while nobody listens on them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from handrail.local.ports import is_free

FIRST, LAST = 12_000, 31_999
"""Below the range that Linux takes outgoing ports from. A client that keeps trying a dead port within it ends up
connected to itself, and then the server can't have its port back."""


def steady_ports() -> Iterator[int]:
    """Free ports, each another one."""
    given: set[int] = set()
    while True:
        port = random.randint(FIRST, LAST)
        if port not in given and is_free(port):
            given.add(port)
            yield port
