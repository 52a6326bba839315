"""The page's few files, under names that change with their content, so that browsers may keep them for ever."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.responses import Response

_KINDS = {"css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
_FOR_EVER = "public, max-age=31536000, immutable"


class Assets:
    """Every file of `static/`, read once."""

    def __init__(self) -> None:
        self._urls: dict[str, str] = {}
        self._found: dict[str, tuple[bytes, str]] = {}
        for file in files("handrail_console.web").joinpath("static").iterdir():
            stem, _, kind = file.name.rpartition(".")
            if kind in _KINDS:
                body = file.read_bytes()
                name = f"{stem}.{hashlib.sha256(body).hexdigest()[:12]}.{kind}"
                self._urls[file.name] = f"/assets/{name}"
                self._found[name] = body, _KINDS[kind]

    def url(self, name: str) -> str:
        """Where the file `name` is."""
        return self._urls[name]

    def get(self, name: str) -> Response | None:
        if name not in self._found:
            return None
        body, kind = self._found[name]
        return Response(body, media_type=kind, headers={"Cache-Control": _FOR_EVER})
