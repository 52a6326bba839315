"""A relay between a client and one broker that tells what passes and holds back, delays or loses chosen frames.

Kafka's framing is all that it knows: 4 bytes of length, then (request) api key, version and correlation id, or (response)
the correlation id. The broker's own port is replaced in what it says of itself, so that clients come back here.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka.admin import AdminClient

METADATA, FIND_COORDINATOR = 3, 10
END_TXN = 26
WITHIN_S = 60.0
_ADDRESSES = frozenset({METADATA, FIND_COORDINATOR})


class Held:
    """A frame that was stopped: `reached` is set when it is there; then it is let go, or lost."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._decided = threading.Event()
        self._lost = False

    def wait(self) -> None:
        assert self.reached.wait(WITHIN_S), "no such frame came"

    def release(self) -> None:
        self._decided.set()

    def lose(self) -> None:
        self._lost = True
        self._decided.set()

    def passes(self) -> bool:
        """Called by the relay: stays here until it is decided what becomes of the frame."""
        self.reached.set()
        self._decided.wait(WITHIN_S)
        return not self._lost


class Wire:
    """Listens on a port of its own."""

    def __init__(self, bootstrap: str) -> None:
        broker = next(
            iter(AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=10).brokers.values())
        )
        self._broker = (broker.host, broker.port)
        self._server = socket.create_server(("127.0.0.1", 0))
        port = self._server.getsockname()[1]
        self.bootstrap = f"{broker.host}:{port}"
        name = broker.host.encode()
        self._own, self._theirs = name + struct.pack(">i", port), name + struct.pack(">i", broker.port)
        self.requests: Counter[int] = Counter()
        self.requests_of: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int], tuple[int, Held]] = {}
        self._lost: set[tuple[str, int]] = set()
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, what: str, api: int, nth: int = 1) -> Held:
        """Stop the n-th `request` or `response` of this kind from now on."""
        with self._lock:
            self._held[what, api] = (nth, held := Held())
        return held

    @contextmanager
    def without(self, what: str, api: int) -> Iterator[None]:
        """Every `request` or `response` of this kind is lost meanwhile, also those that are sent again."""
        with self._lock:
            self._lost.add((what, api))
        try:
            yield
        finally:
            with self._lock:
                self._lost.discard((what, api))

    def cut(self) -> None:
        """Break every connection; new ones are taken."""
        with self._lock:
            broken, self._connections = self._connections, []
        with _ended(*broken):
            """Nothing more."""

    def close(self) -> None:
        self._server.close()
        self.cut()
        with self._lock:
            for _, held in self._held.values():
                held.release()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                broker = socket.create_connection(self._broker)
                with self._lock:
                    self._connections += [client, broker]
                asked: dict[int, int] = {}
                threading.Thread(target=self._relay, args=("request", client, broker, asked), daemon=True).start()
                threading.Thread(target=self._relay, args=("response", broker, client, asked), daemon=True).start()

    def _relay(self, what: str, source: socket.socket, sink: socket.socket, asked: dict[int, int]) -> None:
        """Frames in one direction of one connection. `asked` maps correlation ids to the api keys of their requests."""
        with _ended(source, sink), source.makefile("rb") as frames:
            while len(head := frames.read(4)) == 4:
                frame = frames.read(struct.unpack(">i", head)[0])
                if what == "request":
                    api, _, correlation = struct.unpack_from(">hhi", frame)
                    asked[correlation] = api
                    (length,) = struct.unpack_from(">h", frame, 8)
                    with self._lock:
                        self.requests[api] += 1
                        self.requests_of[frame[10 : 10 + length].decode(), api] += 1
                else:
                    api = asked.pop(struct.unpack_from(">i", frame)[0])
                    if api in _ADDRESSES:
                        frame = frame.replace(self._theirs, self._own)
                held = self._stopped(what, api)
                if (held is None or held.passes()) and (what, api) not in self._lost:
                    sink.sendall(head + frame)

    def _stopped(self, what: str, api: int) -> Held | None:
        with self._lock:
            nth, held = self._held.get((what, api), (0, None))
            if held is None:
                return None
            if nth > 1:
                self._held[what, api] = (nth - 1, held)
                return None
            return self._held.pop((what, api))[1]


@contextmanager
def _ended(*sockets: socket.socket) -> Iterator[None]:
    """Shuts connections down at the end, whoever still reads there; a connection that broke is no error."""
    try:
        with contextlib.suppress(OSError):
            yield
    finally:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@contextmanager
def relay(bootstrap: str) -> Iterator[Wire]:
    """A Wire to this broker, closed at the end."""
    wire = Wire(bootstrap)
    try:
        yield wire
    finally:
        wire.close()
