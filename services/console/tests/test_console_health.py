"""What console says of itself over HTTP, with and without Kafka."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.errors import Unreachable
from handrail.health import readiness
from handrail.local.ports import free_port
from handrail.process_stats import Process, body
from handrail.testing.clock import ManualClock
from handrail_console import figures
from handrail_console.backlog import Backlog
from handrail_console.database import LedgerAway
from handrail_console.follower import Follower, Seen
from handrail_console.ledger import Ledger
from handrail_console.queries import Queries
from handrail_console.source import Read
from prometheus_client import generate_latest
from structlog.testing import capture_logs

NOW = 1_767_261_723_000  # 2026-01-01 10:02:03 UTC
NOWHERE = "127.0.0.1:1"
CONTRACTS = Path(__file__).parents[3] / "contracts"


class Enough(Exception):
    """Ends a loop that never ends by itself."""


class Topics:
    """A source that has read up to 7 of 10, and then is away."""

    skipped: dict[Any, int] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.reads = 0

    async def __aenter__(self) -> Topics:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self, *_: object) -> Read:
        self.reads += 1
        if self.reads > 1:
            raise Unreachable("Kafka does not answer")
        return Read([], {("runs", 0): 7, ("tasks", 0): 2}, {("runs", 0): 10, ("tasks", 0): 2})


class Batches(Topics):
    """A source that gives two records each time; 3 more are to come."""

    def __init__(self, records: Any) -> None:
        self._some = [records.transition(number, "acting", "next") for number in (1, 2)]

    async def read(self, *_: object) -> Read:
        return Read(self._some, {("runs", 0): 7, ("tasks", 0): 2}, {("runs", 0): 10, ("tasks", 0): 2})


async def test_it_tells_how_much_is_to_come_and_then_that_kafka_is_away(ledger: Ledger) -> None:
    seen: list[Seen] = []

    async def connect(_: Any) -> Any:
        seen.append(follower.seen)
        return Topics()

    async def sleep(_: float) -> None:
        seen.append(follower.seen)
        raise Enough

    follower = Follower(ledger, connect, sleep)
    with pytest.raises(Enough):
        await follower.run()
    before, after = seen
    assert figures.vitals(before, NOW).reasons() == ("is starting",)
    assert after.lag == {"runs": 3, "tasks": 0}
    assert figures.vitals(after, NOW).reasons() == ("Kafka does not answer",)
    metrics = generate_latest(figures.registry(lambda: after, ManualClock(NOW))).decode()
    assert 'handrail_ready{stage="console"} 0.0' in metrics
    assert 'handrail_ledger_lag_records{topic="runs"} 3.0' in metrics
    assert "handrail_ledger_looked_timestamp_seconds" in metrics


async def test_what_is_not_in_the_ledger_yet_is_to_come_however_long_its_database_takes(records: Any) -> None:
    seen: list[Seen] = []

    class Database:
        """Takes what it is given, and looks at what is told meanwhile."""

        def apply(self, *_: object) -> int:
            seen.append(follower.seen)
            return 2

        def backlog(self) -> Backlog:
            return Backlog()

    follower: Any = Follower(Database(), None)  # type: ignore[arg-type]
    for _ in range(2):
        await follower.step(Batches(records))
        seen.append(follower.seen)
    assert [one.lag["runs"] for one in seen] == [5, 3, 5, 3]
    assert [one.lag["tasks"] for one in seen] == [0, 0, 0, 0]
    told = [figures.vitals(one, round((one.at or 0) * 1000)) for one in seen]
    assert [sum(one.lag.values()) for one in told] == [5, 3, 5, 3]
    assert [one.counters["consumed"] for one in told] == [0, 2, 2, 4]


@pytest.mark.parametrize(
    ("away", "lag"),
    [(LedgerAway("the ledger's database does not answer"), 5), (Unreachable("Kafka does not answer"), 0)],
)
async def test_while_the_database_is_away_its_records_wait_and_while_kafka_is_nobody_knows(
    records: Any, away: Unreachable, lag: int
) -> None:
    """So monitor says of the one that records wait and nothing is taken, and of the other nothing that is not so."""
    seen: list[Seen] = []

    class Database:
        place = "the ledger"

        def positions(self) -> dict[Any, int]:
            return {}

        def apply(self, *_: object) -> int:
            raise away

    async def connect(_: Any) -> Any:
        return Batches(records)

    async def sleep(_: float) -> None:
        seen.append(follower.seen)
        if len(seen) == 3:
            raise Enough

    follower = Follower(Database(), connect, sleep)  # type: ignore[arg-type]
    with capture_logs(), pytest.raises(Enough):
        await follower.run()
    told = [body(Process("console", "1", NOW), figures.vitals(one, NOW), NOW) for one in seen]
    assert [one["gauges"]["lag"] for one in told] == [lag] * 3
    assert [one["counters"] for one in told] == [{}] * 3  # nothing is written, however often it is tried
    assert {tuple(one["reasons"]) for one in told} == {(str(away),)}


def test_it_is_ready_while_it_can_look_however_much_is_to_come() -> None:
    seen = Seen({"runs": 5_000, "tasks": 1}, at=NOW / 1000)
    told = readiness([figures.vitals(seen, NOW + 30_000)])
    assert told["ready"] is True
    assert told["stages"][0]["lag"] == 5_001  # type: ignore[index]


def test_it_is_not_ready_when_it_has_not_looked_for_long_whatever_holds_it_up() -> None:
    seen = Seen({"runs": 1}, at=NOW / 1000)
    [why] = figures.vitals(seen, NOW + 31_000).reasons()
    assert why.startswith("has not looked at the topics since 2026-01-01 10:02:03 UTC (31 s)")
    metrics = generate_latest(figures.registry(lambda: seen, ManualClock(NOW + 31_000))).decode()
    assert 'handrail_ready{stage="console"} 0.0' in metrics


@pytest.mark.parametrize("module", ["handrail_console", "handrail_console.web"])
def test_without_kafka_each_answers_about_itself_and_ends_with_0(module: str, path: Path, contracts: Contracts) -> None:
    Ledger(path, contracts).close()
    http, web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    env = {
        **os.environ,
        "HANDRAIL_HOME": str(path.parent),
        "HANDRAIL_LEDGER": str(path),
        "HANDRAIL_CONTRACTS": str(CONTRACTS),
        "HANDRAIL_BOOTSTRAP": NOWHERE,
        "HANDRAIL_HTTP": http,
        "HANDRAIL_WEB": web,
    }
    process = subprocess.Popen([sys.executable, "-m", module], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert asked(f"http://{http}/live", within_s=60) == (200, "live\n")
        if module == "handrail_console":
            until = time.monotonic() + 30
            while "Kafka" not in (told := asked(f"http://{http}/ready")[1]) and time.monotonic() < until:
                time.sleep(0.05)
            assert re.search(r'"ready": false.*Kafka does not answer at 127\.0\.0\.1:1', told)
        else:
            assert asked(f"http://{http}/ready")[0] == 200
            status, page = asked(f"http://{web}/")
            assert status == 200
            assert "<h1>Flows</h1>" in page
            assert "process_cpu_seconds_total" in asked(f"http://{http}/metrics")[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("setting", "value"), [("HANDRAIL_WEB", "nowhere"), ("HANDRAIL_JAEGER", "javascript:alert(1)")]
)
def test_the_page_ends_with_2_over_a_wrong_setting(setting: str, value: str, tmp_path: Path) -> None:
    env = {**os.environ, "HANDRAIL_HOME": str(tmp_path), setting: value}
    command = [sys.executable, "-m", "handrail_console.web"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert setting in ended.stdout


def test_a_page_that_reads_for_long_does_not_hold_up_the_writer(ledger: Ledger, path: Path, records: Any) -> None:
    ledger.apply([records.transition(1, "prepared", "prepared")])
    queries = Queries.open(path, within_s=10)
    with queries._engine.connect() as connection, connection.begin():
        assert connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 1
        began = time.monotonic()
        ledger.apply([records.transition(1, "prepared", "prepared", run="2" * 36)])
        assert time.monotonic() - began < 5, "the writer waited for the reader"
        assert connection.exec_driver_sql("SELECT count(*) FROM runs").scalar() == 1  # as it was when it began
    assert queries.count("runs") == 2
    queries.close()


def asked(url: str, within_s: float = 10.0) -> tuple[int, str]:
    """Ask until somebody answers."""
    until = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
