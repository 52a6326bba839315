"""Where calls may go: addresses are checked after resolving, so that no name can lead inside."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from handrail.flow import System


class Forbidden(OSError):
    """The address may not be called."""


def check_address(text: str, *, loopback: bool, private: bool) -> None:
    """Raises Forbidden for loopback, private, link-local (cloud metadata) and reserved addresses unless allowed."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_loopback:
        if not loopback:
            raise Forbidden(f"{text} is this machine; `allow: {{loopback: true}}` in the system's file would allow it")
    elif not address.is_global and not (private and address.is_private and not address.is_link_local):
        raise Forbidden(f"{text} is not a public address; `allow: {{private: true}}` allows private ones")


class GuardedResolver(AbstractResolver):
    """Resolves like the machine does, and refuses addresses that the system may not have."""

    def __init__(self, system: System) -> None:
        self._inner = ThreadedResolver()
        self._allow = system.allow

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for each in found:
            check_address(each["host"], loopback=self._allow.loopback, private=self._allow.private)
        return found

    async def close(self) -> None:
        await self._inner.close()


def check_base_url(system: System) -> None:
    """A literal address is not resolved, so it is checked at the start. Raises Forbidden."""
    host = urlsplit(system.base_url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    check_address(host, loopback=system.allow.loopback, private=system.allow.private)
