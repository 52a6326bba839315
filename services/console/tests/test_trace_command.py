"""`handrail trace`: the tree of a run's trace, from a Jaeger that is a plain HTTP server here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import typer
from handrail.errors import ConfigError, Unreachable
from handrail.local.ports import free_port
from handrail.settings import Settings
from handrail_console.commands.trace import trace
from handrail_console.jaeger import Jaeger
from handrail_console.ledger import Ledger
from handrail_console.tracetree import as_json, lines, tree

RUN = "0a1b2c3d-0000-8000-8000-000000000001"
TRACE, ORDER = "ab" * 16, "cd" * 16
START_US = 1_767_261_723_000_000  # 2026-01-01 10:02:03 UTC
app = typer.Typer()
app.command()(trace)


def spanned(
    id: str,  # noqa: A002 - the name in a trace
    above: str | None,
    what: str,
    at_ms: float,
    took_ms: float = 1.0,
    links: tuple[str, ...] = (),
    **tags: Any,
) -> dict[str, Any]:
    """A span as Jaeger's API gives it; `what` is `<service> <operation> <stage>`."""
    service, operation = what.split(" ", 1)
    references = [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": above}] if above else []
    references += [{"refType": "FOLLOWS_FROM", "traceID": link, "spanID": "1" * 16} for link in links]
    return {
        "traceID": TRACE,
        "spanID": id,
        "operationName": operation,
        "references": references,
        "startTime": START_US + round(at_ms * 1_000),
        "duration": round(took_ms * 1_000),
        "tags": [{"key": key.replace("_", ".", 1), "value": value} for key, value in tags.items()],
        "processID": service,
    }


def body(*spans: dict[str, Any]) -> dict[str, Any]:
    services = {span["processID"] for span in spans}
    return {"spans": list(spans), "processes": {name: {"serviceName": f"handrail-{name}"} for name in services}}


ON_A_BAD_DAY = body(
    spanned(
        "d", "c", "action call action.billing", 2_100, 40, handrail_attempt=2, **{"http_response.status_code": 200}
    ),
    spanned("a", None, "ingest process order.ingest", 0, 2.5),
    spanned("b", "a", "decision process order.decision", 4),
    spanned("c", "b", "action call action.billing", 7, 30, error=True, error_type="503", handrail_attempt=1),
    spanned("e", "b", "decision process order.decision", 7_200_000, 3, (ORDER,), handrail_replay=1),
)
AN_ORDER = body(spanned("f", None, "recovery process recovery.commands", 7_199_990))


def test_a_trace_is_told_as_a_tree_with_times_failures_and_attempts() -> None:
    assert lines(tree(TRACE, ON_A_BAD_DAY), START_US) == [
        " +0 ms   2.5 ms  ingest process order.ingest",
        " +4 ms   1.0 ms  └ decision process order.decision",
        " +7 ms  30.0 ms    ├ action call action.billing  (FAILED: 503)",
        "+2.1 s  40.0 ms    │ └ action call action.billing  (200; attempt 2)",
        "  +2 h   3.0 ms    └ decision process order.decision  (replay 1; ordered in trace cdcdcdcd)",
    ]


def test_a_span_whose_parent_was_not_recorded_is_a_root_that_says_so() -> None:
    late = tree(TRACE, body(spanned("z", "never-sent", "action call action.billing", 0, error=True, error_type="503")))
    (root,) = late.roots
    assert root.orphan
    assert "what was before it is not recorded here" in lines(late, START_US)[0]
    assert as_json(late)["spans"][0]["parent_recorded"] is False


def test_parents_that_go_in_a_circle_still_give_every_span_once() -> None:
    found = tree(
        TRACE, body(spanned("x", "y", "a p s", 0), spanned("y", "x", "a p s", 1), spanned("s", "s", "a p s", 2))
    )
    assert sorted(node.id for node in found.nodes()) == ["s", "x", "y"]


def test_a_chain_of_a_thousand_attempts_is_told_to_its_end() -> None:
    chain = [spanned(str(n), str(n - 1) if n else None, "action call action.billing", n) for n in range(1_000)]
    assert len(lines(tree(TRACE, body(*chain)), START_US)) == 1_000


def test_an_error_class_can_t_command_the_terminal() -> None:
    found = tree(TRACE, body(spanned("x", None, "a p s", 0, error=True, error_type="\x1b[2Jbad")))
    assert "\x1b" not in lines(found, START_US)[0]


class Served:
    """A Jaeger that knows these traces, or one that answers whatever it is told to."""

    def __init__(self) -> None:
        self.traces: dict[str, Any] = {}
        self.page = b"<html>the page</html>"
        self.instead: tuple[int, bytes] | None = None
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, answer = served.answer(self.path)
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str) -> tuple[int, bytes]:
        if self.instead is not None:
            return self.instead
        if path == "/":
            return 200, self.page
        found = self.traces.get(path.rpartition("/")[2])
        if found is None:
            return 404, b'{"data":null,"errors":[{"code":404,"msg":"trace not found"}]}'
        return 200, json.dumps({"data": [found]}).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def jaeger(desk: Any) -> Iterator[Served]:
    """It, and the command line that is told where it is."""
    served = Served()
    desk.settings = Settings.from_env({"HANDRAIL_LEDGER": desk.settings.ledger, "HANDRAIL_JAEGER": served.url + "/"})
    yield served
    served.close()


@pytest.fixture
def known(ledger: Ledger, records: Any) -> Callable[..., None]:
    """Lets the ledger know of the run."""

    def know(sequence: int = 1, **more: Any) -> None:
        ledger.apply([records.transition(sequence, "prepared", "prepared", **more)])

    return know


def test_a_run_is_found_by_its_key_and_told_with_the_orders_that_moved_it(
    desk: Any, jaeger: Served, known: Any
) -> None:
    known()
    jaeger.traces = {TRACE: ON_A_BAD_DAY, ORDER: AN_ORDER}
    told = desk(app, "7")
    assert told.exit_code == 0
    said = told.output.splitlines()
    assert said[0] == f"Run {RUN} of order-to-invoice v1, business key 7: prepared"
    assert said[1].startswith("Began 2026-01-01 10:02:03 UTC")
    assert f"Trace {TRACE}: 5 spans of action, decision, ingest; 2 h, 1 failed" in said
    assert f"Order {ORDER}: 1 span of recovery; 1 ms" in said
    assert said[-1] == f"{jaeger.url}/trace/{TRACE}"


def test_programs_get_the_same_as_json(desk: Any, jaeger: Served, known: Any) -> None:
    known()
    jaeger.traces = {TRACE: ON_A_BAD_DAY}
    told = json.loads(desk(app, RUN[:8], "--json").output)
    (one,) = told["traces"]
    assert (told["run"], one["trace"], one["link"]) == (RUN, TRACE, f"{jaeger.url}/trace/{TRACE}")
    assert [(span["depth"], span["error"], span["attempt"]) for span in one["spans"]] == [
        (0, None, None),
        (1, None, None),
        (2, "503", 1),
        (3, None, 2),
        (2, None, None),
    ]


def test_the_link_is_to_where_browsers_reach_it(desk: Any, jaeger: Served, known: Any) -> None:
    known()
    jaeger.traces = {TRACE: ON_A_BAD_DAY}
    outside = "http://traces.example.com/"
    desk.settings = Settings.from_env(
        {"HANDRAIL_LEDGER": desk.settings.ledger, "HANDRAIL_JAEGER": jaeger.url, "HANDRAIL_JAEGER_LINK": outside}
    )
    assert desk(app, "7").output.splitlines()[-1] == f"http://traces.example.com/trace/{TRACE}"


def test_a_jaeger_without_its_page_is_told_beside_the_link(desk: Any, jaeger: Served, known: Any) -> None:
    known()
    jaeger.traces = {TRACE: ON_A_BAD_DAY}
    jaeger.page = b"a binary that was not compiled with the UI assets"
    assert "built without its page" in desk(app, "7").output


def test_an_unknown_run_an_unknown_trace_and_a_run_without_one_end_with_1(
    desk: Any, jaeger: Served, known: Any, ledger: Ledger
) -> None:
    missing = desk(app, "8")
    assert (missing.exit_code, "no run '8' in the ledger" in missing.output) == (1, True)
    known(trace=None)
    without = desk(app, "7")
    assert (without.exit_code, "has no trace" in without.output) == (1, True)
    known(sequence=2)
    unknown = desk(app, "7")
    assert (unknown.exit_code, f"has no trace {TRACE}" in unknown.output) == (1, True)


def test_a_jaeger_that_is_away_is_an_error_that_says_how_to_start_one(desk: Any, known: Any) -> None:
    known()
    nowhere = f"http://127.0.0.1:{free_port()}"
    desk.settings = Settings.from_env({"HANDRAIL_LEDGER": desk.settings.ledger, "HANDRAIL_JAEGER": nowhere})
    error = desk(app, "7").exception
    assert isinstance(error, Unreachable)  # the command line ends with 2 then
    assert nowhere in str(error)
    assert "handrail up --jaeger" in str(error)


@pytest.mark.parametrize(
    "instead", [(200, b"<html>"), (200, b"[]"), (200, b'{"data": 3}'), (404, b"not here"), (500, b"")]
)
def test_what_answers_and_is_no_jaeger_is_named_so(jaeger: Served, instead: tuple[int, bytes]) -> None:
    jaeger.instead = instead
    with pytest.raises(Unreachable, match="is no Jaeger"):
        Jaeger(jaeger.url).trace(TRACE)


@pytest.mark.parametrize("url", ["localhost:16686", "ftp://x", "http://"])
def test_an_address_that_is_none_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="HANDRAIL_JAEGER"):
        Jaeger(url)
