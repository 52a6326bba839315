"""`${env:NAME}` and `${env:NAME:-default}` in system files: what is secret or differs by place is never in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping

from handrail.errors import ConfigError

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def has_reference(text: str) -> bool:
    """Whether the text takes anything from the environment."""
    return _REFERENCE.search(text) is not None


def malformed(text: str) -> bool:
    """Whether a `${` stands there that is no reference."""
    return "${" in _REFERENCE.sub("", text)


def with_defaults(text: str) -> str:
    """The text as it is when the environment is empty; a reference without a default becomes `x`."""
    return _REFERENCE.sub(lambda match: match[2] if match[2] is not None else "x", text)


def expand(text: str, env: Mapping[str, str]) -> str:
    """The text with every reference replaced. Raises ConfigError that names a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        found = env.get(match[1]) or match[2]
        if found is None:
            raise ConfigError(
                f"the environment variable {match[1]} is not set; set it, or give a default: ${{env:{match[1]}:-…}}"
            )
        return found

    return _REFERENCE.sub(value, text)
