"""What the sandbox raises on purpose. Each message says what was wrong, where, and what to do."""

from __future__ import annotations


class SandboxError(Exception):
    """The root."""


class BooksError(SandboxError):
    """The books can't be opened, read or written."""


class PortTakenError(SandboxError):
    """Another program listens on the port."""


class OrderRefusedError(SandboxError):
    """The sandbox did not take an order."""
