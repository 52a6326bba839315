"""Where calls may go: addresses are checked after resolving, so that no name can lead inside."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from handrail.flow import System

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Forbidden(OSError):
    """The address may not be called."""


def check_address(text: str, *, loopback: bool, private: bool) -> None:
    """Raises Forbidden for loopback, private, link-local (cloud metadata) and reserved addresses unless allowed."""
    address = _meant(ipaddress.ip_address(text))
    if address.is_loopback or address.is_unspecified:  # 0.0.0.0 connects to this machine too
        if not loopback:
            raise Forbidden(f"{text} is this machine; `allow: {{loopback: true}}` in the system's file would allow it")
    elif not _public(address) and not (private and address.is_private and not address.is_link_local):
        raise Forbidden(f"{text} is not a public address; `allow: {{private: true}}` allows private ones")


def _public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, 6to4, NAT64 of RFC 6052), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


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
