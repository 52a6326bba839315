"""The sandbox's HTTP server: on loopback, with the books opened before and closed after."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from handrail_sandbox.app import build
from handrail_sandbox.bookkeeping import BookKeeper
from handrail_sandbox.connection import CuttableProtocol
from handrail_sandbox.errors import PortTakenError
from handrail_sandbox.schema import open_books

LOOPBACK = "127.0.0.1"
KEEP_ALIVE_S = 75
"""Longer than callers keep an idle connection: one closed just as it is used would be a fault nobody ordered."""

logger = logging.getLogger("sandbox")


def listen(port: int) -> socket.socket:
    """A socket on loopback; port 0 takes a free one. Raises PortTakenError."""
    # asyncio sets TCP_NODELAY only where the protocol is named; without it each reply takes 44 ms (measured).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise PortTakenError(
            f"port {port} on {LOOPBACK} can't be had ({error.strerror}); "
            "end the program that has it, or give another with --port or HANDRAIL_SANDBOX_PORT"
        ) from error
    return listener


class Server(uvicorn.Server):
    """uvicorn, told to end by us: held calls are cut off first, and a signal is an orderly end with exit code 0."""

    def __init__(self, config: uvicorn.Config, closing: asyncio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to `serve`: uvicorn would raise them again after the end."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut off whoever is held by a fault, then end as usual."""
        self._closing.set()
        await super().shutdown(sockets)


class Sandbox:
    """One sandbox: its socket, its books, its server. `url` is where it is. Raises PortTakenError and BooksError."""

    def __init__(self, port: int, db: Path) -> None:
        self._listener = listen(port)
        try:
            self.keeper = BookKeeper(open_books(db), lambda: time.time_ns() // 1_000_000)
        except BaseException:
            self._listener.close()
            raise
        self.url = f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"
        closing = asyncio.Event()
        config = uvicorn.Config(
            build(self.keeper, closing),
            http=CuttableProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=5,
        )
        self._server = Server(config, closing)

    async def serve(self) -> None:
        """Serve until `stop`; the books are closed afterwards."""
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            self._listener.close()
            self.keeper.close()

    def stop(self) -> None:
        """Ask the server to end. May be called from any thread."""
        self._server.should_exit = True


def run(port: int, db: Path) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises PortTakenError and BooksError."""

    async def until_told() -> None:
        sandbox = Sandbox(port, db)
        loop = asyncio.get_running_loop()
        for told in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(told, sandbox.stop)
        logger.info("the sandbox is at %s, its books are %s", sandbox.url, db)
        await sandbox.serve()
        logger.info("the sandbox has ended")

    asyncio.run(until_told())


class JsonLines(logging.Formatter):
    """One JSON object a line: at (ms), level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "at": int(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(*, as_json: bool) -> None:
    """Plain lines for people, JSON lines for machines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
