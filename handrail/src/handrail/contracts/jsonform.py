"""Values as JSON, for samples and files of events: bytes are written as {"$bytes": "<hex>"}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_BYTES = "$bytes"


def loads(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also for NaN, Infinity, and a name that stands twice."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deep") from None


def dumps(value: Any) -> str:
    """The JSON text of a value, on one line."""
    return json.dumps(_plain(value), ensure_ascii=False)


def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook`: raises ValueError for a name that stands twice, of which JSON would keep the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = no_repeats(pairs)
    if len(found) == 1 and isinstance(found.get(_BYTES), str):
        try:
            return bytes.fromhex(found[_BYTES])
        except ValueError:
            raise ValueError(f'{{"{_BYTES}": …}} must hold hex digits') from None
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {_BYTES: value.hex()}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
