"""What the chaos run raises on purpose."""

from __future__ import annotations

from handrail.errors import HandrailError


class ChaosError(HandrailError):
    """The run can't go on. The message says what was wrong, where, and what to do."""
