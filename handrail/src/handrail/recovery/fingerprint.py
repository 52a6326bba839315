"""Failures of one kind share a fingerprint, whatever order, customer or time they are about. Pure."""

from __future__ import annotations

import re
from hashlib import blake2b

from handrail.recovery.classes import FailureInfo

_QUOTED = re.compile(r"\"[^\"]*\"|`[^`]*`|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)")
_NUMBERED = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b|\b[^\W\d]*\d\w*")
_JOINED = re.compile(r"#(?:[^\w\s#]{0,2}#)+")
_LENGTH = 256


def fingerprint(stage: str, info: FailureInfo, system: str | None = None) -> str:
    """16 hex digits of stage, class, exception type, first frame of ours, masked message and system."""
    parts = (
        stage,
        info.error_class.value,
        info.exception_type or "",
        info.frame or "",
        mask(info.message),
        system or "",
    )
    flat = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode() for part in parts))
    return blake2b(flat, digest_size=8, person=b"handrail.finger").hexdigest()


def mask(message: str) -> str:
    """The message without what differs from case to case: quoted text, and every word with a digit in it."""
    plain = _NUMBERED.sub("#", _QUOTED.sub("'…'", message))
    return _JOINED.sub("#", plain)[:_LENGTH]
