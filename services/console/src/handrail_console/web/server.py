"""The page's HTTP server, on a thread of its own. Why it is what it is: docs/adr/0011."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from handrail.errors import ConfigError
from starlette.types import ASGIApp

KEEP_ALIVE_S = 30
MOST_AT_ONCE = 100
END_S = 5


class PageServer:
    """Answers until closed."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        """Listen (port 0: any that is free). Raises ConfigError when it can't."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((host, port))
            self._listener.listen(128)
        except OSError as error:
            self._listener.close()
            raise ConfigError(
                f"HANDRAIL_WEB={host}:{port}: can't listen there: {error.strerror or error}; name another port"
            ) from error
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_S,
            limit_concurrency=MOST_AT_ONCE,
            timeout_graceful_shutdown=END_S,
        )
        self._server = _Quiet(config)
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Answer what was asked, then nobody any more."""
        self._server.should_exit = True
        self._thread.join(END_S * 2)
        self._listener.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])


class _Quiet(uvicorn.Server):
    """Leaves signals to the process."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
