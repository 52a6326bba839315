"""What the demo raises on purpose."""

from __future__ import annotations

from handrail.errors import HandrailError


class DemoError(HandrailError):
    """The demo can't go on. The message says what was wrong, where, and what to do."""
