"""`handrail alerts`: what monitor has found, and that its silence is noticed."""

from __future__ import annotations

import json
from typing import Any

import typer
from handrail.contracts import Contracts
from handrail_console.commands.alerts import alerts
from handrail_console.ledger import Ledger
from handrail_console.projection import project
from handrail_console.queries import Queries
from sqlalchemy import text

APP = typer.Typer()
APP.command()(alerts)
START = 1_767_261_723_000


def test_what_fires_is_shown_with_what_to_do(ledger: Ledger, desk: Any, records: Any) -> None:
    later = records.alert(alert="lag/x", rule="lag", subject="x", severity="WARNING", at=START + 5)
    ledger.apply([later, records.alert(), records.beat(START + 50_000)])
    result = desk(APP)
    assert result.exit_code == 0
    assert result.output.splitlines()[:5] == [
        "CRITICAL  calls-failing: billing, since 2026-01-01 10:02:03 UTC",
        "  What happened  12 calls to billing failed.",
        "  What it means  Runs wait.",
        "  What to do     See whether billing is up.",
        "  Owner          ops@example.com; docs/operations/alerts.md#calls-failing",
    ]
    assert "WARNING  lag: x" in result.output


def test_an_alert_that_is_over_is_no_more_among_those_that_fire(ledger: Ledger, desk: Any, records: Any) -> None:
    over = {"state": "RESOLVED", "sequence": 2, "at": START + 63_000}
    ledger.apply([records.alert(), records.alert(**over), records.beat(START + 50_000)])
    ledger.apply([records.alert(told=["log"])])  # what is older never comes back
    assert desk(APP).output == "no alert fires\n"
    assert "over after 63.0 s  calls-failing: billing" in desk(APP, "--all").output
    told = json.loads(desk(APP, "--all", "--json").output)
    assert [(one["state"], one["sent_to"]) for one in told["alerts"]] == [("RESOLVED", ["slack:billing"])]
    assert told["monitor"]["silent"] is False


def test_a_monitor_that_was_never_heard_is_noticed(ledger: Ledger, desk: Any) -> None:
    result = desk(APP)
    assert result.exit_code == 1
    assert "Warning: monitor was never heard: nobody watches" in result.output


def test_a_monitor_that_fell_silent_is_noticed(ledger: Ledger, desk: Any, records: Any) -> None:
    ledger.apply([records.beat(START + 20_000), records.beat(START + 59_000, service="action")])
    result = desk(APP)
    assert result.exit_code == 1
    assert "Warning: monitor silent since 2026-01-01 10:02:23 UTC (40.0 s ago): nobody watches" in result.output
    assert json.loads(desk(APP, "--json").output)["monitor"] == {"silent": True, "heard_at": START + 20_000}


def test_of_the_seconds_of_other_services_nothing_is_kept(ledger: Ledger, records: Any, contracts: Contracts) -> None:
    assert project(contracts, records.beat(START, service="action")) == []
    ledger.apply([records.beat(START + second) for second in range(50)])
    queries = Queries.open(ledger.place)
    with queries._engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM heartbeats")).scalar() == 1
        assert connection.execute(text("SELECT count(*) FROM unreadable")).scalar() == 0
    queries.close()
