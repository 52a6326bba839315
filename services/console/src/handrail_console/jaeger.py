"""Jaeger's HTTP API, as much of it as a trace needs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from handrail.errors import ConfigError, Unreachable

WITHIN_S = 10.0
MAX_BYTES = 64 * 1024 * 1024
_NOT_FOUND = 404
_NO_PAGE = b"not compiled with the UI assets"

Ask = Callable[[str], dict[str, Any] | None]
"""The body of a trace by its id, or None where it is not known."""


class Jaeger:
    """One Jaeger, by the URL of its API; `page` is where a browser reaches it, if not there. Raises ConfigError when the
    URL is none.
    """

    def __init__(self, url: str, page: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"HANDRAIL_JAEGER={url}: that is no address; write http://<host>:<port>")
        self.url = url.rstrip("/")
        self._page = (page or url).rstrip("/")

    def trace(self, trace: str) -> dict[str, Any] | None:
        """The trace as the API gives it: `spans` and `processes`; None when it is not known there.

        Raises Unreachable when Jaeger is away, or when what answers is no Jaeger.
        """
        try:
            found = json.loads(self._get(f"/api/traces/{trace}"))
            data = found["data"]
            return dict(data[0]) if data else None
        except urllib.error.HTTPError as error:
            with error:
                if error.code == _NOT_FOUND and b"trace not found" in error.read(MAX_BYTES):
                    return None
            raise self._strange(f"HTTP status {error.code}") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise self._strange("no JSON of a trace") from error
        except OSError as error:
            raise Unreachable(
                f"Jaeger does not answer at {self.url} ({getattr(error, 'reason', error)}). Is one there? `handrail up "
                "--jaeger` starts one; HANDRAIL_JAEGER=<address> names another"
            ) from error

    def link(self, trace: str) -> str:
        """Where the page shows a trace."""
        return f"{self._page}/trace/{trace}"

    def has_page(self) -> bool:
        """Whether it shows traces to people: a Jaeger that was built from its Go module answers by its API alone."""
        try:
            return _NO_PAGE not in self._get("/")
        except OSError:
            return True

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=WITHIN_S) as answer:
            return bytes(answer.read(MAX_BYTES))

    def _strange(self, what: str) -> Unreachable:
        return Unreachable(f"what answers at {self.url} is no Jaeger: {what} (HANDRAIL_JAEGER=<address> names another)")
