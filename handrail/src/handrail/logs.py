"""Logs as JSON lines on standard output. Never the contents of messages: they may be personal data."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(service: str, level: int = logging.INFO) -> None:
    """Set structlog up for a service's process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
