"""The page over HTTP, on ledgers made by hand: what it shows, what it never shows, and what it says when it can't."""

from __future__ import annotations

import http.client
import re
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import ConfigError
from handrail.settings import Settings
from handrail_console.database import TookTooLong
from handrail_console.ledger import Ledger
from handrail_console.owners import About, Owners
from handrail_console.web import looks
from handrail_console.web.bootstrap import application
from handrail_console.web.guard import host_of
from handrail_console.web.kept import Kept
from handrail_console.web.server import PageServer
from handrail_console.web.settings import PageSettings

PROJECT = Path(__file__).parents[3]
START = 1_767_261_723_000
RUN = "0a1b2c3d-0000-8000-8000-000000000001"
HOSTILE = "<script>alert('x')</script>\"'&\u202e\x1b[31m"
PATHS = ("/", "/incidents", "/tasks", "/runs", f"/runs/{RUN}", "/flows/order-to-invoice")


class Clock:
    """Shared by console's writing side and the page; it stands still until it is told to go."""

    def __init__(self) -> None:
        self.at = START + 60_000

    def now(self) -> int:
        return self.at


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @property
    def text(self) -> str:
        """What a person reads."""
        reader = _Reader()
        reader.feed(self.body)
        return " ".join(" ".join(reader.found).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.found.append(data)


class Browser:
    """Asks the page as a program would."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return Answer(
                answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
            )
        finally:
            connection.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(path: Path, contracts: Contracts, clock: Clock) -> Iterator[Ledger]:
    with Ledger(path, contracts, clock) as made:
        yield made


@pytest.fixture
def serve(clock: Clock, path: Path) -> Iterator[Callable[..., Browser]]:
    servers: list[PageServer] = []

    def started(**env: str) -> Browser:
        given = {
            "HANDRAIL_LEDGER": str(path),
            "HANDRAIL_FLOWS": str(PROJECT / "flows"),
            "HANDRAIL_SYSTEMS": str(PROJECT / "systems"),
            "HANDRAIL_WEB": "127.0.0.1:0",
        } | env
        page = PageSettings.from_env(given)
        servers.append(PageServer(application(Settings.from_env(given), page, clock), page.host, page.port))
        return Browser(servers[-1].port)

    yield started
    for server in servers:
        server.close()


@pytest.fixture
def browser(serve: Callable[..., Browser]) -> Browser:
    return serve()


@pytest.fixture
def told(ledger: Ledger, records: Any) -> Ledger:
    """One run that failed and lies in the dead letters, one that waits for an approval, one that is done."""
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared"),
            records.transition(2, "acting", "next", step="invoice"),
            records.transition(
                3,
                "failed",
                "outcome",
                step="invoice",
                failure_class="business",
                reason="billing said no: credit refused",
                attempts=1,
                first_failure_at=START + 2000,
            ),
            records.letter(),
            records.transition(1, "prepared", "prepared", run="B" * 36, route="8", dedupe={"order_id": "8"}),
            records.transition(2, "waiting", "decision", run="B" * 36, route="8", step="review", task="t"),
            records.task(run="B" * 36, route="8", task="t"),
            records.transition(1, "prepared", "prepared", run="C" * 36, route="9", dedupe={"order_id": "9"}),
            records.transition(2, "done", "outcome", run="C" * 36, route="9", step="invoice", attempts=1),
        ],
        reached={},
    )
    return ledger


def test_the_overview_says_how_each_flow_is_and_what_to_do(told: Ledger, browser: Browser) -> None:
    seen = browser.ask("/").text
    assert "order-to-invoice Needs a person" in seen
    assert "1 open dead letter, the oldest for 60.0 s; 1 open task" in seen
    assert "3 runs, 1 under way · owner: billing-ops@example.com" in seen
    assert "Failed runs 1 1 business" in seen
    assert "Time to recovery not yet 95 %: not yet; 1 open, for 58.0 s" in seen
    assert "1 dead letter billing said no: credit refused" in seen
    assert "a rule of the other side said no: settle it there" in seen
    assert "then: handrail dlq replay 9c1d2e3f-0000-5000-8000-000000000001" in seen
    assert "Let order-to-invoice 7 go on?" in seen
    assert "handrail tasks approve t" in seen
    assert "Up to date : console looked 0 ms ago, 0 records to come" in seen


def test_a_flow_has_its_measures_by_week_and_its_purpose(told: Ledger, browser: Browser) -> None:
    seen = browser.ask("/flows/order-to-invoice?since=30d").text
    assert "An accepted order becomes exactly one invoice." in seen
    assert "2025-12-29 3 1 1 business" in seen
    assert "Failed by class: 1 business." in seen


NOTHING = dict.fromkeys(("amount", "unit", "step", "since", "within_ms"))
OUTCOMES = [
    NOTHING | {"name": "time-to-invoice", "step": "invoice", "since": START, "within_ms": 60_000},
    NOTHING | {"name": "value", "amount": 1299.5, "unit": "EUR <b>"},
]


def test_a_flow_shows_what_it_is_for_and_what_it_takes_of_people(
    ledger: Ledger, browser: Browser, records: Any
) -> None:
    for run, last in (("A", ("failed", "outcome", {"failure_class": "business"})), ("B", ("done", "outcome", {}))):
        state, event, fields = last
        told = [
            records.transition(1, "prepared", "prepared", run=run, outcomes=OUTCOMES),
            records.transition(2, state, event, run=run, step="invoice", at=START + 4000, **fields),
        ]
        ledger.apply(told, reached={})
    of_task = {"letter": None, "generation": None, "run": None}
    ledger.apply([records.ordered("review", **of_task, minutes=30), records.ordered("done", **of_task, task="t")])
    ledger.apply([records.alert(flow="order-to-invoice", subject="order-to-invoice"), records.task(group="credit")])
    seen = browser.ask("/flows/order-to-invoice").text
    for words in (
        "What it is for",
        "time-to-invoice 4.0 s 95 %: not yet; 1 of 2 in time; 1 not yet, for 60.0 s",
        "value, at risk 1,299.50 EUR <b> 0 under way; 1,299.50 done; 0 given up",
        "What it takes of people",
        "Minutes by hand 0 1 order, 1 of which say none",
        "Waited for credit not yet 1 task, 1 open",
        "Changes 0 1 review, 30 min",
        "Incidents 1 1 going on",
    ):
        assert words in seen, words


def test_a_flow_that_declares_nothing_shows_nothing_beside(told: Ledger, browser: Browser) -> None:
    assert "What it is for" not in browser.ask("/flows/order-to-invoice").text


def test_a_run_tells_its_story_and_links_its_trace(told: Ledger, serve: Callable[..., Browser]) -> None:
    without = serve().ask(f"/runs/{RUN}")
    assert "The order arrived (order_id 7, revision 1) and was prepared." in without.text
    assert (
        "Step invoice failed (business): billing said no: credit refused. 1 attempt. It became a dead letter."
        in without.text
    )
    assert "Stopped as failed after 2.0 s; 1 attempt." in without.text
    assert "Jaeger" not in without.text
    assert f"handrail trace {RUN}" in without.text
    with_jaeger = serve(HANDRAIL_JAEGER="http://127.0.0.1:16686/").ask(f"/runs/{RUN}")
    assert f'href="http://127.0.0.1:16686/trace/{"ab" * 16}"' in with_jaeger.body


def test_runs_are_found_narrowed_and_paged_without_leaving_one_out(
    ledger: Ledger, records: Any, browser: Browser
) -> None:
    names = [f"{number:036d}" for number in range(120)]
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared", run=name, route=f"key-{name}", at=START + number // 3)
            for number, name in enumerate(names)
        ]
    )
    path, seen, pages = "/runs", [], 0
    while path:
        answer = browser.ask(path)
        seen += re.findall(r'href="/runs/(\d{36})"', answer.body)
        older = re.search(r'rel="next" href="([^"]+)"', answer.body)
        path = older[1].replace("&amp;", "&") if older else ""
        pages += 1
    assert (sorted(seen), len(seen), pages) == (names, 120, 3)
    assert "120 in all, the last that moved first." in browser.ask("/runs").text
    assert "0 in all that are so" in browser.ask("/runs?state=done").text
    assert browser.ask(f"/runs?q=key-{names[7]}").headers["location"] == f"/runs/{names[7]}"
    assert "No run has this id or business key." in browser.ask("/runs?q=nothing").text
    assert "50 found for “000”." in browser.ask("/runs?q=000").text


def test_hostile_names_stay_text_everywhere(ledger: Ledger, records: Any, browser: Browser) -> None:
    run = "../" + HOSTILE
    ledger.apply(
        [
            records.transition(
                1,
                "failed",
                "outcome",
                run=run,
                flow=HOSTILE,
                route=HOSTILE,
                step=HOSTILE,
                failure_class=HOSTILE,
                reason=HOSTILE,
                dedupe={HOSTILE: HOSTILE},
                segments={HOSTILE: HOSTILE},
                trace=HOSTILE,
            ),
            records.letter(run=run, flow=HOSTILE, stage=HOSTILE, step=HOSTILE, message=HOSTILE, route=HOSTILE),
            records.task(run=run, flow=HOSTILE, title=HOSTILE, group=HOSTILE, step=HOSTILE, route=HOSTILE),
        ]
    )
    found = set()
    todo = {"/", "/incidents", "/tasks", "/runs", "/runs?q=%3Cscript%3Ealert(1)%3C/script%3E"}
    while todo:
        path = todo.pop()
        found.add(path)
        answer = browser.ask(path)
        assert answer.status in (200, 303), (path, answer.text)
        reader = _Reader()
        reader.feed(answer.body)
        tags = {tag for tag, _ in reader.tags}
        assert "script" not in tags, path
        assert not {"\x1b", "\u202e"} & set(answer.text), path
        for _, attributes in reader.tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], path
            link = attributes.get("href") or ""
            assert not link or link.startswith(("/", "#")), link
            if link.startswith(("/runs/", "/flows/")) and link not in found:
                todo.add(link)
    assert any(path.startswith("/runs/") for path in found)
    assert any(path.startswith("/flows/") for path in found)


def test_a_flow_that_stands_still_needs_a_person_though_nothing_is_open(
    ledger: Ledger, records: Any, browser: Browser
) -> None:
    ledger.apply([records.transition(1, "acting", "next"), records.beat(START + 50_000)], reached={})
    assert "order-to-invoice Well" in browser.ask("/").text
    silent = {"alert": "process-silent/action", "rule": "process-silent", "subject": "action", "system": None}
    silent |= {"what": "action has said nothing for 2 days: action.billing.", "todo": "Start it."}
    ledger.apply([records.alert(**silent)], reached={})
    for path in ("/", "/incidents"):
        seen = browser.ask(path).text
        assert "Alerts critical action has said nothing for 2 days: action.billing." in seen, path
        assert "What to do Start it. Owner ops@example.com For 60.0 s" in seen, path
    assert "order-to-invoice Needs a person action has said nothing for 2 days" in browser.ask("/").text
    ledger.apply([records.alert(**silent, state="RESOLVED", sequence=2)], reached={})
    assert "order-to-invoice Well" in browser.ask("/").text
    assert "Alerts" not in browser.ask("/").text


def test_an_alert_concerns_its_own_flow_or_those_that_call_its_system_or_all() -> None:
    flows = {"sales": About(systems=frozenset({"billing"})), "hr": About()}
    assert looks.concerned({"flow": "hr", "system": "billing"}, flows, ()) == {"hr"}
    assert looks.concerned({"flow": None, "system": "billing"}, flows, ()) == {"sales"}
    assert looks.concerned({"flow": None, "system": None}, flows, {"gone"}) == {"sales", "hr", "gone"}


def test_that_nobody_watches_is_said_before_all_else(ledger: Ledger, records: Any, browser: Browser) -> None:
    ledger.apply([records.transition(1, "done", "outcome")], reached={})
    assert "Nobody watches : monitor was never heard" in browser.ask("/").text
    ledger.apply([records.beat(START + 50_000)], reached={})
    assert "Nobody watches" not in browser.ask("/").text
    ledger.apply([records.beat(START + 20_000 - 5)], reached={})
    assert "Nobody watches" not in browser.ask("/").text, "what is older does not count"


def test_an_empty_ledger_is_a_page_with_the_flows_of_the_files(ledger: Ledger, browser: Browser) -> None:
    for path in ("/", "/incidents", "/tasks", "/runs", "/flows/order-to-invoice"):
        assert browser.ask(path).status == 200, path
    assert "order-to-invoice No runs" in browser.ask("/").text
    assert "No runs yet." in browser.ask("/runs").text


def test_a_stale_ledger_says_so_first_on_every_page(told: Ledger, browser: Browser, clock: Clock) -> None:
    clock.at += 3_600_000
    for path in PATHS:
        seen = browser.ask(path).text
        assert "Stale : the ledger is as it was 60 min ago: console has not looked since" in seen, path
        assert "It knows nothing after 2026-01-01 10:03:03 UTC" in seen, path
        assert "Up to date" not in seen, path
    told.apply([], reached={})
    assert "Up to date" in browser.ask("/").text


def test_what_is_well_in_a_stale_ledger_was_well(ledger: Ledger, records: Any, browser: Browser, clock: Clock) -> None:
    ledger.apply([records.transition(1, "done", "outcome")], reached={})
    assert "order-to-invoice Well" in browser.ask("/").text
    clock.at += 3_600_000
    seen = browser.ask("/?since=30d").text
    assert "order-to-invoice Was well" in seen
    assert "No open dead letter that this ledger knows of" in seen
    assert "Nobody watches" not in seen, "whether somebody does it does not know"


def test_a_ledger_that_is_behind_says_by_how_much(told: Ledger, browser: Browser) -> None:
    told.apply([], reached={("runs", 0): 10}, highs={("runs", 0): 12_010})
    seen = browser.ask("/runs").text
    assert "Behind : the ledger is behind: 12000 records to come" in seen


def test_big_numbers_are_readable(ledger: Ledger, records: Any, browser: Browser) -> None:
    ledger.apply(
        [
            records.transition(1, "prepared", "prepared", at=START),
            records.of(
                "stats",
                "order-to-invoice.transform",
                {
                    "stage": "order-to-invoice.transform",
                    "flow": "order-to-invoice",
                    "counts": {"duplicates": 9_876_543_210},
                    "at": START,
                },
            ),
        ]
    )
    assert "Duplicates stopped 9,876,543,210 100 %; 0 found later" in browser.ask("/").text


def test_what_carries_the_customers_data_is_not_shown(told: Ledger, browser: Browser) -> None:
    for path in PATHS:
        body = browser.ask(path).body
        assert "total_minor" not in body, path  # of the task's context
        assert "not avro" not in body, path  # of the letter's payload


def test_there_is_nothing_but_reading(told: Ledger, browser: Browser, path: Path) -> None:
    before = path.read_bytes()
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        for page in PATHS:
            answer = browser.ask(page, method)
            assert answer.status == 405, (method, page)
            assert "GET" in answer.headers["allow"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("page", [*PATHS, "/nothing"])
def test_head_is_get_without_a_body(told: Ledger, browser: Browser, page: str) -> None:
    got, head = browser.ask(page), browser.ask(page, "HEAD")
    assert (head.status, head.body) == (got.status, "")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("page", [*PATHS, "/nothing", "/runs/nobody", "/?since=always"])
def test_every_answer_is_locked_down_and_kept_by_nobody(told: Ledger, browser: Browser, page: str) -> None:
    answer = browser.ask(page)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "server" not in answer.headers
    reader = _Reader()
    reader.feed(answer.body)
    outside = [one for _, attributes in reader.tags for one in attributes.values() if one and "//" in one]
    assert [one for one in outside if not one.startswith("http://www.w3.org/")] == []


def test_the_files_of_the_page_may_be_kept_for_ever(browser: Browser) -> None:
    body = browser.ask("/nothing").body
    for url in re.findall(r'href="(/assets/[^"]+)"', body):
        answer = browser.ask(url)
        assert answer.status == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert browser.ask("/assets/page.css").status == 404
    assert browser.ask("/assets/..%2fsite.py").status == 404
    assert browser.ask("/favicon.ico").headers["location"].startswith("/assets/icon.")


@pytest.mark.parametrize(
    ("page", "status", "says"),
    [
        ("/nothing", 404, "There is nothing at this address."),
        ("/runs/nobody", 404, "The ledger has no run of this id."),
        ("/flows/nobody", 404, "There is no such flow"),
        ("/?since=1y", 400, "`since` is one of: 7d, 30d, 90d."),
        ("/runs?state=odd", 400, "`state` is one of: received,"),
        ("/runs?after=x", 400, "`after` is not where a page begins."),
        ("/runs?q=%00", 400, "`q` is nothing that one could look for."),
        (f"/runs?flow={'x' * 500}", 400, "`flow` is nothing that one could look for."),
    ],
)
def test_a_wrong_address_is_told_as_a_page(told: Ledger, browser: Browser, page: str, status: int, says: str) -> None:
    answer = browser.ask(page)
    assert answer.status == status
    assert says in answer.text
    assert "To the flows" in answer.text


def test_without_a_ledger_it_says_what_to_do_and_works_once_there_is_one(
    browser: Browser, path: Path, contracts: Contracts
) -> None:
    answer = browser.ask("/")
    assert answer.status == 503
    assert answer.headers["retry-after"] == "10"
    assert "No ledger yet" in answer.text
    assert "handrail status" in answer.text
    with Ledger(path, contracts):
        assert browser.ask("/").status == 200


def test_a_fault_of_ours_is_a_page_without_its_inside(
    told: Ledger, browser: Browser, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE runs SET dedupe = 'secret, and no JSON'")
    connection.close()
    answer = browser.ask(f"/runs/{RUN}")
    assert answer.status == 500
    assert "This is a fault of ours." in answer.text
    assert "secret" not in answer.body
    assert "Traceback" not in answer.body
    assert "JSONDecodeError" in capsys.readouterr().out


def test_a_question_that_takes_too_long_is_cut_off(told: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from handrail_console.queries import Queries
    from sqlalchemy import text

    queries = Queries.open(path, within_s=0.05)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS c FROM n"
    with pytest.raises(TookTooLong):
        queries.all(text(endless))  # type: ignore[arg-type]
    queries.close()


def test_it_answers_only_to_names_that_it_has(told: Ledger, serve: Callable[..., Browser]) -> None:
    browser = serve()
    for name in ("localhost", "127.0.0.1:1234", "[::1]:80", "LOCALHOST:9"):
        assert browser.ask("/", Host=name).status == 200, name
    refused = browser.ask("/", Host="evil.example.com")
    assert refused.status == 421
    assert refused.headers["content-security-policy"]
    assert "billing" not in refused.body
    named = serve(HANDRAIL_WEB_HOSTS="eyes.example.com")
    assert named.ask("/", Host="eyes.example.com:8443").status == 200
    assert serve(HANDRAIL_WEB_HOSTS="*").ask("/", Host="any.example.com").status == 200


def test_the_name_in_a_host_header_is_found() -> None:
    names = {"a.b": "a.b", "a.b:80": "a.b", "[::1]:80": "::1", "[::1]": "::1", "::1": "::1", "": "", "A:": "a:"}
    assert {given: host_of(given) for given in names} == names


@pytest.mark.parametrize("given", ["19080", "host:", ":80", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:８０"])
def test_a_wrong_place_to_listen_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="write host:port"):
        PageSettings.from_env({"HANDRAIL_WEB": given})


def test_by_default_only_this_machine_can_see_it() -> None:
    settings = PageSettings.from_env({})
    assert (settings.host, settings.port) == ("127.0.0.1", 19080)
    assert settings.hosts == {"localhost", "127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "given", ["javascript:alert(1)", "127.0.0.1:16686", "http://u:p@h", 'http://h/"x', "http://[h"]
)
def test_a_wrong_address_of_jaeger_is_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="HANDRAIL_JAEGER"):
        PageSettings.from_env({"HANDRAIL_JAEGER": given})


def test_a_port_that_is_taken_is_told_with_its_setting(serve: Callable[..., Browser]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"HANDRAIL_WEB=127\.0\.0\.1:\d+: can't listen there"):
            serve(HANDRAIL_WEB=f"127.0.0.1:{other.getsockname()[1]}")


def test_the_owner_is_of_the_newest_version_and_broken_files_name_none(tmp_path: Path) -> None:
    for version, owner in (("v2", "two"), ("v10", "ten")):
        (tmp_path / "flows" / "f" / version).mkdir(parents=True)
        (tmp_path / "flows" / "f" / version / "flow.yaml").write_text(f"people: {{owner: {owner}}}")
    (tmp_path / "flows" / "g" / "v1").mkdir(parents=True)
    (tmp_path / "flows" / "g" / "v1" / "flow.yaml").write_text("people: [")
    (tmp_path / "systems").mkdir()
    (tmp_path / "systems" / "crm.yaml").write_text("people: {owner: crm-team}")
    owners = Owners.load(tmp_path / "flows", tmp_path / "systems")
    assert owners.of("f") == "ten"
    assert owners.of("g") is None
    assert owners.of(None, "action.crm") == "crm-team"
    assert owners.of(None, "f.ingest.orders") == "ten"
    assert owners.of("unknown", "action.crm") is None


def test_the_systems_of_a_flow_are_those_that_its_steps_call() -> None:
    owners = Owners.load(PROJECT / "flows", PROJECT / "systems")
    assert owners.flows["order-to-invoice"].systems == {"billing"}


def test_what_was_dear_is_kept_for_ten_times_as_long() -> None:
    time, made = [0.0], []

    def make() -> int:
        time[0] += 3.0
        made.append(1)
        return len(made)

    kept: Kept[int] = Kept(lambda: time[0])
    assert [kept.get("a", make), kept.get("a", make)] == [1, 1]
    time[0] = 32.9
    assert kept.get("a", make) == 1
    time[0] = 33.0
    assert kept.get("a", make) == 2
    assert [kept.get(key, make) for key in ("b", "a")] == [3, 2]


def test_while_somebody_computes_it_anew_the_others_get_the_old_one() -> None:
    time = [0.0]
    kept: Kept[str] = Kept(lambda: time[0])
    kept.get("a", lambda: "old")
    time[0] = 100.0
    during: list[str] = []

    def slowly() -> str:
        during.append(kept.get("a", lambda: "never"))  # another visitor, meanwhile
        return "new"

    assert kept.get("a", slowly) == "new"
    assert during == ["old"]


def test_a_slow_one_makes_no_other_wait() -> None:
    kept: Kept[str] = Kept()
    during: list[str] = []

    def slowly() -> str:
        other = threading.Thread(target=lambda: during.append(kept.get("b", lambda: "quick")))
        other.start()
        other.join(10)
        return "slow"

    assert kept.get("a", slowly) == "slow"
    assert during == ["quick"]


def test_what_took_too_long_is_not_tried_again_at_once() -> None:
    time, tried = [0.0], []

    def fail() -> int:
        time[0] += 50.0
        tried.append(1)
        raise TookTooLong("no")

    kept: Kept[int] = Kept(lambda: time[0], failures=(TookTooLong,))
    for _ in range(3):
        with pytest.raises(TookTooLong):
            kept.get("a", fail)
    assert len(tried) == 1
    time[0] += 60.0
    assert kept.get("a", lambda: 7) == 7


def test_the_overview_tells_what_stands_open_when_the_measures_take_too_long(
    told: Ledger, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> looks.Measured:
        raise TookTooLong("no")

    monkeypatch.setattr(looks, "measure_all", never)
    seen = browser.ask("/")
    assert seen.status == 200
    assert "The measures took too long" in seen.text
    assert "No open dead letter" not in seen.text
    assert "credit refused" in seen.text


def test_a_flow_that_nobody_knows_is_not_measured(
    told: Ledger, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "measure_one", lambda *_: pytest.fail("measured"))
    assert browser.ask("/flows/nobody").status == 404


def test_what_stands_open_is_of_now_however_old_the_measures_are(
    told: Ledger, records: Any, browser: Browser, clock: Clock
) -> None:
    assert "1 open dead letter, the oldest" in browser.ask("/").text
    clock.at += 20_000
    told.apply([records.letter(letter="another", fingerprint="other")], reached={})
    seen = browser.ask("/").text
    assert "2 open dead letters, the oldest" in seen
