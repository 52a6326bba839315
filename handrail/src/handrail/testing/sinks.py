"""Where alerts arrive in tests: a webhook and a mail server of one's own, on loopback. Both keep what they got."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Server = ThreadingHTTPServer | socketserver.ThreadingTCPServer


class Sink(Generic[T]):
    """A server on a free port, until the end of the block. Tests wait for what it gets, without polling."""

    def __init__(self) -> None:
        self._got: list[T] = []
        self._changed = threading.Condition()
        self._server = self._made()
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def _made(self) -> Server:
        raise NotImplementedError

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def put(self, one: T) -> None:
        with self._changed:
            self._got.append(one)
            self._changed.notify_all()

    def got(self) -> list[T]:
        """So far."""
        with self._changed:
            return list(self._got)

    def wait(self, wanted: Callable[[T], bool], within_s: float) -> T:
        """The first that is wanted. Raises AssertionError when none came in time."""
        with self._changed:
            came = self._changed.wait_for(lambda: any(map(wanted, self._got)), within_s)
            assert came, f"not within {within_s:g} s; there came: {self._got}"
            return next(one for one in self._got if wanted(one))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class WebhookSink(Sink[dict[str, Any]]):
    """Answers each POST with the next of `answers` (the last one for ever) and keeps the JSON of those answered below 300."""

    def __init__(self, *answers: int) -> None:
        self._answers = list(answers or (200,))
        self.asked = 0
        super().__init__()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/secret"

    def _made(self) -> Server:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink.asked += 1
                status = sink._answers.pop(0) if len(sink._answers) > 1 else sink._answers[0]
                if status < 300:  # kept before it is answered, so that whoever was answered finds it
                    sink.put(json.loads(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that the library gives it
                """Silence."""

        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


class MailSink(Sink[EmailMessage]):
    """As much of SMTP as a client needs that logs in nowhere. `answer` is what it says to the end of a mail.

    To the command `mute_at` it says nothing more, nor to what comes after it: `muted` is set then.
    """

    def __init__(self, answer: str = "250 kept", mute_at: bytes | None = None) -> None:
        self._answer, self._mute_at = answer, mute_at
        self.muted = threading.Event()
        super().__init__()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _made(self) -> Server:
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with suppress(ConnectionError):  # whoever gives up in the midst of a mail just goes
                    self._serve()

            def _serve(self) -> None:
                self._say("220 sink")
                for line in self.rfile:
                    word = line.strip().upper()
                    if sink._mute_at and word.startswith(sink._mute_at):
                        sink.muted.set()
                        self.rfile.read()
                        return
                    if word == b"DATA":
                        self._say("354 go on")
                        sink._take(self._data())
                        self._say(sink._answer)
                    elif word == b"QUIT":
                        self._say("221 bye")
                        return
                    else:
                        self._say("250 sink")

            def _data(self) -> bytes:
                lines = []
                for line in self.rfile:
                    if line == b".\r\n":
                        break
                    lines.append(line.removeprefix(b"."))
                return b"".join(lines)

            def _say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        return socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)

    def _take(self, raw: bytes) -> None:
        if self._answer.startswith("2"):
            self.put(message_from_bytes(raw, policy=policy.default))
