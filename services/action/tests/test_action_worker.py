"""The worker against a real server on this machine: what arrives there, and what comes back as a value."""

from __future__ import annotations

import gzip
import queue
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from handrail.clock import SystemClock
from handrail.contracts import Contracts
from handrail.flow import Flows, System
from handrail.message import Finished
from handrail.telemetry import Telemetry
from handrail.testing.clock import ManualClock
from handrail.traceparent import trace_id
from handrail_action.calls import Job, Reply
from handrail_action.worker import MAX_REPLY_BYTES, ROOM, HttpWorker

ROOT = Path(__file__).parents[3]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PATIENCE_S = 10.0
FLOWS = Flows.load(ROOT / "flows", ROOT / "systems", Contracts.load(ROOT / "contracts"))


@dataclass
class Request:
    """What the server has read of one request."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


Behaviour = Callable[[Request], bytes | None]
"""The bytes of the whole answer; None closes the connection without one."""


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Server:
    """A server of raw sockets that does as the test says."""

    behave: Behaviour = lambda _request: answer(200, b"{}")
    requests: list[Request] = field(default_factory=list)
    arrived: queue.Queue[Request] = field(default_factory=queue.Queue)
    go_on: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def hold(self, request: Request) -> bytes | None:
        """Answer only when the test says so."""
        self.go_on.wait(PATIENCE_S)
        return answer(200, b"{}")


@pytest.fixture
def server() -> Iterator[Server]:
    desk = Server()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (line := self.rfile.readline()).strip():
                headers: dict[str, str] = {}
                while (raw := self.rfile.readline()).strip():
                    name, _, value = raw.decode().partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = self.rfile.read(int(headers.get("content-length", "0")))
                request = Request(line.decode().strip(), headers, body, id(self))
                desk.requests.append(request)
                desk.arrived.put(request)
                said = desk.behave(request)
                if said is None:
                    return
                try:
                    self.wfile.write(said)
                except OSError:
                    return

    class Listening(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Listening(("127.0.0.1", 0), Handler) as listening:
        desk.port = listening.server_address[1]
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        yield desk
        desk.go_on.set()
        listening.shutdown()
        thread.join()


Make = Callable[..., HttpWorker]


@pytest.fixture
def make(server: Server) -> Iterator[Make]:
    made: list[HttpWorker] = []

    def start(*, clock: Any = None, concurrency: int = 4, settle_ms: int = 1, **system: Any) -> HttpWorker:
        billing: System = FLOWS.systems["billing"]
        limits = billing.limits.model_copy(update={"concurrency": concurrency})
        told = {"base_url": f"http://127.0.0.1:{server.port}", "limits": limits, "settle_ms": settle_ms} | system
        worker = HttpWorker(
            billing.model_copy(update=told), "action.billing", clock or SystemClock(), Telemetry.from_env("action", {})
        )
        made.append(worker)
        return worker

    yield start
    server.go_on.set()
    for worker in made:
        worker.close()


def job(server: Server, **given: Any) -> Job:
    base = Job(
        kind="call",
        attempt=1,
        check=0,
        method="POST",
        url=f"http://127.0.0.1:{server.port}/invoices",
        headers={"Idempotency-Key": "r/invoice/r1", "Content-Type": "application/json"},
        body=b'{"a": 1}',
        send_by=SystemClock().now() + 60_000,
        connect_ms=1_000,
        total_ms=5_000,
        traceparent=TRACE,
        run="01234567-89ab-8def-8123-456789abcdef",
    )
    return replace(base, **given)


def take(worker: HttpWorker, count: int = 1) -> list[tuple[int, Finished]]:
    """The next results, in the order in which they came."""
    taken: list[tuple[int, Finished]] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(taken) < count:
        taken += worker.finished()
        assert time.monotonic() < deadline, f"only {len(taken)} of {count} results came"
        time.sleep(0.002)
    return taken


def ask(worker: HttpWorker, one: Job, key: str = "k") -> Reply:
    worker.start(0, key, one)
    ((_, finished),) = take(worker)
    reply: Reply = finished.result
    return reply


def test_status_body_and_retry_after_come_back_as_they_are(make: Make, server: Server) -> None:
    server.behave = lambda _request: answer(429, b'{"why": "slow down"}', Retry_After="7")
    worker = make()
    worker.start(3, "the key", job(server, attempt=2, check=5))
    ((partition, finished),) = take(worker)
    assert (partition, finished.key) == (3, "the key")
    reply: Reply = finished.result
    assert (reply.status, reply.body, reply.retry_after) == (429, b'{"why": "slow down"}', "7")
    assert (reply.kind, reply.attempt, reply.check, reply.trouble) == ("call", 2, 5, None)
    assert not worker.busy()


def test_the_key_the_trace_and_the_body_arrive(make: Make, server: Server) -> None:
    reply = ask(make(), job(server))
    (request,) = server.requests
    assert request.line == "POST /invoices HTTP/1.1"
    assert request.headers["idempotency-key"] == "r/invoice/r1"
    assert request.body == b'{"a": 1}'
    assert trace_id(request.headers["traceparent"]) == trace_id(TRACE)
    assert request.headers["traceparent"] == reply.traceparent


@pytest.mark.parametrize(("status", "flag"), [(200, "00"), (503, "01"), (404, "01")])
def test_from_a_call_that_failed_on_an_unsampled_run_is_recorded(
    make: Make, server: Server, status: int, flag: str
) -> None:
    server.behave = lambda _request: answer(status, b"{}")
    reply = ask(make(), job(server, traceparent=TRACE[:-2] + "00"))
    assert (reply.traceparent or "")[-2:] == flag
    assert server.requests[0].headers["traceparent"][-2:] == "00", "nobody knew yet when it was sent"


def test_from_a_lost_answer_on_an_unsampled_run_is_recorded(make: Make, server: Server) -> None:
    server.behave = lambda _request: None
    reply = ask(make(), job(server, traceparent=TRACE[:-2] + "00"))
    assert (reply.trouble, (reply.traceparent or "")[-2:]) == ("lost", "01")


def test_no_value_can_change_where_a_call_goes(make: Make, server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}/invoices/a%2F..%2Fb?reference=7%2F1%26x%3D1%2B1"
    ask(make(), job(server, method="GET", body=None, url=url))
    _, target, _ = server.requests[0].line.split()
    assert urlsplit(target).path == "/invoices/a%2F..%2Fb"
    assert parse_qsl(urlsplit(target).query) == [("reference", "7/1&x=1+1")]


def test_a_refused_connection_was_not_sent(make: Make, server: Server) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as closed:
        port = closed.server_address[1]
    reply = ask(make(), job(server, url=f"http://127.0.0.1:{port}/x"))
    assert (reply.trouble, reply.status) == ("not-sent", None)
    assert "billing" in reply.detail


def test_an_unknown_host_was_not_sent(make: Make, server: Server) -> None:
    assert ask(make(), job(server, url="http://no-such-host.invalid/x")).trouble == "not-sent"


def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(make: Make, server: Server) -> None:
    worker = make(allow=FLOWS.systems["billing"].allow.model_copy(update={"loopback": False}))
    reply = ask(worker, job(server, url=f"http://localhost:{server.port}/x"))
    assert reply.trouble == "not-sent"
    assert server.requests == []


def test_a_connection_closed_after_the_request_was_read_is_lost(make: Make, server: Server) -> None:
    server.behave = lambda _request: None
    reply = ask(make(), job(server))
    assert (reply.trouble, reply.status) == ("lost", None)
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "GET"])
def test_nothing_is_sent_twice_when_a_kept_connection_breaks(make: Make, server: Server, method: str) -> None:
    worker = make()
    assert ask(worker, job(server)).status == 200
    server.behave = lambda _request: None
    assert ask(worker, job(server, method=method, body=None)).trouble == "lost"
    assert server.requests[0].connection == server.requests[1].connection, "else this test shows nothing"
    assert len(server.requests) == 2


def test_an_answer_that_is_cut_off_is_lost(make: Make, server: Server) -> None:
    cut = answer(201, b'{"invoice_id": "i-1"}')[:-5]
    server.behave = lambda _request: cut
    reply = ask(make(), job(server, total_ms=300))
    assert reply.trouble == "lost"


def test_no_answer_in_time_is_lost(make: Make, server: Server) -> None:
    server.behave = server.hold
    reply = ask(make(), job(server, total_ms=200))
    assert (reply.trouble, reply.status) == ("lost", None)


def test_an_answer_that_is_no_http_is_lost(make: Make, server: Server) -> None:
    server.behave = lambda _request: b"220 smtp ready\r\n\r\n"
    assert ask(make(), job(server)).trouble == "lost"


def test_nobody_sends_after_send_by(make: Make, server: Server) -> None:
    clock = ManualClock()
    worker = make(clock=clock)
    assert ask(worker, job(server, send_by=clock.now())).status == 200
    clock.advance(1)
    assert ask(worker, job(server, send_by=clock.now() - 1)).trouble == "too-late"
    assert len(server.requests) == 1


def test_a_redirect_is_not_followed(make: Make, server: Server) -> None:
    server.behave = lambda _request: answer(307, Location=f"http://127.0.0.1:{server.port}/elsewhere")
    assert ask(make(), job(server)).status == 307
    assert len(server.requests) == 1


def test_cookies_are_not_kept(make: Make, server: Server) -> None:
    server.behave = lambda _request: answer(200, Set_Cookie="session=1")
    worker = make()
    ask(worker, job(server))
    ask(worker, job(server))
    assert "cookie" not in server.requests[1].headers


def test_no_more_is_read_than_the_cap(make: Make, server: Server) -> None:
    server.behave = lambda _request: answer(200, b"x" * (MAX_REPLY_BYTES + 100_000))
    assert len(ask(make(), job(server)).body) == MAX_REPLY_BYTES


def test_a_packed_answer_that_unpacks_to_very_much_is_cut_at_the_cap(make: Make, server: Server) -> None:
    packed = gzip.compress(b"\0" * 50_000_000)
    server.behave = lambda _request: answer(200, packed, Content_Encoding="gzip")
    reply = ask(make(), job(server))
    assert len(reply.body) <= MAX_REPLY_BYTES


def test_no_more_calls_are_under_way_than_allowed(make: Make, server: Server) -> None:
    server.behave = server.hold
    worker = make(concurrency=2)
    for number in range(4):
        worker.start(0, f"k{number}", job(server))
    server.arrived.get(timeout=PATIENCE_S)
    server.arrived.get(timeout=PATIENCE_S)
    assert worker.room() == 2 * ROOM - 4
    assert server.arrived.empty()
    server.go_on.set()
    assert [finished.result.status for _, finished in take(worker, 4)] == [200] * 4
    assert worker.room() == 2 * ROOM


def test_what_was_under_way_for_a_lost_partition_is_forgotten(make: Make, server: Server) -> None:
    server.behave = server.hold
    worker = make()
    worker.start(0, "a", job(server))
    worker.start(1, "b", job(server))
    server.arrived.get(timeout=PATIENCE_S)
    server.arrived.get(timeout=PATIENCE_S)
    worker.forget(0)
    worker.start(0, "again", job(server))
    server.go_on.set()
    assert sorted(finished.key for _, finished in take(worker, 2)) == ["again", "b"]
    deadline = time.monotonic() + PATIENCE_S
    while worker.busy():
        assert worker.finished() == []
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_question_about_an_effect_is_not_sent_while_its_call_is_under_way(make: Make, server: Server) -> None:
    """The clock may jump, or the process be stopped: then the effect's timer comes due before its call has ended."""
    server.behave = server.hold
    worker = make()
    worker.start(0, "k", job(server))
    server.arrived.get(timeout=PATIENCE_S)
    worker.start(0, "k", job(server, kind="verify", method="GET", body=None))
    worker.start(0, "other", job(server))
    assert server.arrived.get(timeout=PATIENCE_S).line.startswith("POST"), "another effect is not held up"
    assert server.arrived.empty()
    server.go_on.set()
    assert sorted(finished.result.kind for _, finished in take(worker, 3)) == ["call", "call", "verify"]
    assert server.arrived.get(timeout=PATIENCE_S).line.startswith("GET")


def test_after_a_lost_call_the_next_one_of_its_effect_waits_for_billing_to_settle(make: Make, server: Server) -> None:
    server.behave = lambda request: None if request.line.startswith("POST") else answer(200, b"{}")
    worker = make(settle_ms=300)
    started = time.monotonic()
    worker.start(0, "k", job(server))
    worker.start(0, "k", job(server, kind="verify", method="GET", body=None))
    take(worker, 2)
    assert time.monotonic() - started >= 0.3


def test_a_broken_job_gives_a_reply_too(make: Make, server: Server) -> None:
    reply = ask(make(), job(server, headers={"Bad": "line\r\nbreak"}))
    assert reply.trouble is not None
    assert server.requests == []


def test_closing_ends_what_is_under_way_and_leaves_no_thread(server: Server, make: Make) -> None:
    server.behave = server.hold
    before = set(threading.enumerate())
    worker = make()
    worker.start(0, "k", job(server, total_ms=60_000))
    server.arrived.get(timeout=PATIENCE_S)
    worker.close()
    left = [each.name for each in set(threading.enumerate()) - before if each.name.startswith("calls-")]
    assert left == []
