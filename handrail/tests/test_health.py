"""Health and metrics: what a process says to those who ask, and that it can be believed."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from handrail.errors import ConfigError
from handrail.health import HealthServer, listening
from handrail.metrics import StageMetrics
from handrail.vitals import Vitals
from prometheus_client.parser import text_string_to_metric_families

READY = Vitals(
    "flow.transform", "idle", (0, 1), lag={0: 3, 1: 0}, waiting=2, blocked=1, oldest=90_000, behind=1_500,
    headroom=1_000_000,
    counters={"consumed": 10, "duplicates": 4, "failed.transient": 2, "failed.bug": 1, "aborted.membership": 1},
)  # fmt: skip


class Process:
    """A process with these stages, asked over HTTP."""

    def __init__(self) -> None:
        self.vitals: list[Vitals] = [READY]
        self.metrics = StageMetrics("transform", lambda: self.vitals)
        self.server = HealthServer("127.0.0.1:0", lambda: self.vitals, self.metrics.registry)

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.server.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def ready(self) -> tuple[int, dict[str, Any]]:
        status, body = self.ask("/ready")
        return status, json.loads(body)

    def sample(self, name: str, **labels: str) -> float:
        _, text = self.ask("/metrics")
        (value,) = (
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
        return value


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process()
    yield made
    made.server.close()


def test_what_takes_records_is_ready_and_says_how_much_there_is_to_do(process: Process) -> None:
    status, said = process.ready()
    assert (status, said["ready"]) == (200, True)
    assert said["stages"] == [
        {
            "stage": "flow.transform", "phase": "idle", "ready": True, "reasons": [], "partitions": [0, 1], "lag": 3,
            "waiting": 2,
        }
    ]  # fmt: skip
    assert process.ask("/live") == (200, "live\n")


@pytest.mark.parametrize(
    ("vitals", "reason"),
    [
        (Vitals("s"), "is starting"),
        (Vitals("s", "restore", (0,)), "restore: tables are brought up to date"),
        (Vitals("s", "rewind", (0,)), "rewind: tables are brought up to date"),
        (Vitals("s", "idle", (0,), held={0: "billing v7"}), "partition 0 is paused: flow billing v7 is not here"),
    ],
)
def test_what_does_not_take_records_is_not_ready_and_says_why_but_lives(
    process: Process, vitals: Vitals, reason: str
) -> None:
    process.vitals = [READY, vitals]
    status, said = process.ready()
    assert (status, said["ready"]) == (503, False)
    assert said["stages"][1]["reasons"] == [reason]
    assert process.ask("/live")[0] == 200
    assert process.sample("handrail_ready", stage="s") == 0


def test_a_member_that_stands_by_without_partitions_is_ready(process: Process) -> None:
    process.vitals = [Vitals("s", "idle")]
    assert process.ready()[0] == 200


def test_a_process_without_any_stage_is_not_ready(process: Process) -> None:
    process.vitals = []
    assert process.ready()[0] == 503


def test_metrics_are_those_of_the_stages(process: Process) -> None:
    stage = "flow.transform"
    assert process.sample("handrail_consumed_total", stage=stage) == 10
    assert process.sample("handrail_dedupe_hits_total", stage=stage) == 4
    assert process.sample("handrail_failures_total", stage=stage, **{"class": "transient"}) == 2
    assert process.sample("handrail_transactions_aborted_total", stage=stage, reason="membership") == 1
    assert process.sample("handrail_lag_records", stage=stage, partition="0") == 3
    assert process.sample("handrail_waiting_oldest_age_seconds", stage=stage) == 90
    assert process.sample("handrail_inbox_behind_seconds", stage=stage) == 1.5
    assert process.sample("handrail_dedupe_headroom_seconds", stage=stage) == 1000
    process.metrics.retried(stage, late_ms=20, age_ms=61_000)
    assert process.sample("handrail_retry_lateness_seconds_bucket", stage=stage, le="0.025") == 1
    assert process.sample("handrail_retry_age_seconds_bucket", stage=stage, le="60.0") == 0
    assert process.sample("handrail_retry_age_seconds_bucket", stage=stage, le="300.0") == 1


def test_other_addresses_are_told_which_there_are(process: Process) -> None:
    assert process.ask("/") == (404, "there are /live, /ready and /metrics\n")


@pytest.mark.parametrize("address", ["9464", "localhost:", "localhost:http", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError, match="HANDRAIL_HTTP"):
        HealthServer(address, list, StageMetrics("s", list).registry)


def test_a_port_in_use_is_a_config_error_and_not_silence(process: Process) -> None:
    with pytest.raises(ConfigError, match="can't listen"):
        HealthServer(f"127.0.0.1:{process.server.port}", list, StageMetrics("s", list).registry)


def test_without_an_address_nobody_is_answered() -> None:
    with listening(None, list, StageMetrics("s", list).registry):
        pass
