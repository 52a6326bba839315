"""What the page is told by the environment."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from handrail.errors import ConfigError

DEFAULT = "127.0.0.1:19080"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class PageSettings:
    """Where the page listens, by which names it may be called (None: any), and where Jaeger's own page is."""

    host: str
    port: int
    hosts: frozenset[str] | None
    jaeger: str | None

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> PageSettings:
        """Read `HANDRAIL_WEB` (host:port), `HANDRAIL_WEB_HOSTS` (names, by comma, or `*`) and `HANDRAIL_JAEGER` (a URL).

        Without names it answers to the loopback's and the one that it is bound to: another site's script that makes its
        own name point here gets nothing. Raises ConfigError.
        """
        host, port = _address(env.get("HANDRAIL_WEB") or DEFAULT)
        return cls(host, port, _hosts(env.get("HANDRAIL_WEB_HOSTS", ""), host), _jaeger(env.get("HANDRAIL_JAEGER", "")))


def _address(given: str) -> tuple[str, int]:
    host, _, port = given.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ConfigError(f"HANDRAIL_WEB={given!r}: write host:port, {DEFAULT} say")
    return host, int(port)


def _hosts(given: str, bound: str) -> frozenset[str] | None:
    names = {name.strip().lower().removeprefix("[").removesuffix("]") for name in given.split(",") if name.strip()}
    if "*" in names:
        return None
    return frozenset(names | {*_LOOPBACK, bound.lower()})


def _jaeger(given: str) -> str | None:
    if not given:
        return None
    try:
        url = urlsplit(given)
        sensible = url.scheme in ("http", "https") and url.hostname and not url.username and not url.query
    except ValueError:
        sensible = False
    if not sensible or any(sign in given for sign in " \t\r\n\"'<>"):
        raise ConfigError("HANDRAIL_JAEGER is not the address of a Jaeger page, http://127.0.0.1:16686 say")
    return given.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
