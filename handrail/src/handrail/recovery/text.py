"""Text that is safe to store: bounded in UTF-8 bytes, cut between characters, without lone surrogates."""

from __future__ import annotations

_MARK = "…"
_MARK_BYTES = len(_MARK.encode())


def head(text: str, limit: int) -> str:
    """The beginning of `text`, at most `limit` bytes of UTF-8 (3 or more), marked where it was cut."""
    raw = _encode(text)
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - _MARK_BYTES].decode(errors="ignore") + _MARK


def tail(text: str, limit: int) -> str:
    """The end of `text`, at most `limit` bytes of UTF-8 (3 or more), marked where it was cut."""
    raw = _encode(text)
    if len(raw) <= limit:
        return raw.decode()
    return _MARK + raw[len(raw) - (limit - _MARK_BYTES) :].decode(errors="ignore")


def _encode(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
