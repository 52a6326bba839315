"""Prometheus' rules and Grafana's dashboards: well-formed, about metrics that there are, with a place that helps."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from handrail.errors import Aborted, Moved, Refused, Unrestored
from handrail.flow.run import ENDS
from handrail.metrics import StageMetrics
from handrail.recovery.classes import ErrorClass
from handrail.testing.clock import ManualClock
from handrail.vitals import Vitals
from handrail_console import figures
from handrail_console.backlog import Backlog
from handrail_console.follower import Seen
from handrail_monitor.words import WORDS
from jsonschema import Draft202012Validator
from prometheus_client import generate_latest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
CASES = RULES.with_name("alerts.test.yaml")
PAGE = ROOT / "docs" / "operations" / "alerts.md"
FIRING = 'count by (alertname, stage, instance) (ALERTS{alertstate="firing"})'
VALUES = {
    ("handrail_calls_total", "result"): {"good", *ErrorClass},
    ("handrail_runs_ended_total", "result"): ENDS,
    ("", "reason"): {one.reason for one in (Aborted, Refused, Moved, Unrestored)},
    ("", "stage"): {"monitor", "action.billing", "action.crm", "order-to-invoice.decision"},
    ("", "job"): {"handrail", "prometheus"},
}
"""Which values a label has: that of one metric, else that of any."""
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d))+$"}
SCHEMA = {
    "type": "object",
    "required": ["groups"],
    "additionalProperties": False,
    "properties": {
        "groups": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "rules"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "interval": DURATION,
                    "rules": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["alert", "expr", "labels", "annotations"],
                            "additionalProperties": False,
                            "properties": {
                                "alert": {"type": "string", "pattern": "^Handrail[A-Za-z]+$"},
                                "expr": {"type": "string", "minLength": 1},
                                "for": DURATION,
                                "labels": {
                                    "type": "object",
                                    "required": ["severity"],
                                    "properties": {"severity": {"enum": ["warning", "critical"]}},
                                },
                                "annotations": {
                                    "type": "object",
                                    "required": ["summary", "description", "runbook"],
                                    "additionalProperties": {"type": "string"},
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def cases() -> list[dict[str, Any]]:
    return list(yaml.safe_load(CASES.read_text())["tests"])


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found = os.environ.get("HANDRAIL_PROMTOOL") or shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool here: the tests beside this one check the form")
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False)


def metrics() -> dict[str, set[str]]:
    """What a service says at /metrics, name by name with its labels, when every count was made at least once."""
    counted = ("consumed", "failed.bug", "aborted.broker", "calls.good", "runs.done")
    vitals = Vitals("s", "idle", (0,), lag={0: 1}, counters=dict.fromkeys(counted, 1))
    made = StageMetrics("ingest", lambda: [vitals])
    made.committed("s", 0.1)
    made.retried("s", 1, 1)
    backlog = Backlog({("f", "bug"): 1}, {"f": 0}, {"f": 1})
    ledger = figures.registry(lambda: Seen({"runs": 1}, 1.0, backlog=backlog), ManualClock(1_000))
    found: dict[str, set[str]] = {"up": {"job", "instance"}}  # Prometheus' own
    for line in (generate_latest(made.registry) + generate_latest(ledger)).decode().splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([a-z_]+)(?:\{(.*)\})? ", line).groups()  # type: ignore[union-attr]
            found.setdefault(name, set()).update(re.findall(r"(\w+)=\"", labels or ""))
    return found


def dashboards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("handrail_dashboards", ROOT / "deploy" / "grafana" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]


def wrong(expr: str, known: dict[str, set[str]]) -> list[str]:
    """Metrics that there are not, and labels that a metric does not have."""
    said = re.findall(r"\b(handrail_[a-z_]+|up)\b(?:\{([^}]*)\})?", expr)
    found = [name for name, _ in said if name not in known]
    if not said:
        found.append("no metric at all")
    any_of = set().union(*(known.get(name, set()) for name, _ in said), {"le"})
    by = [label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expr) for label in group.split(",")]
    found += [label for label in by if label not in any_of]
    for name, selector in said:
        found += [
            f"{name}{{{label}}}" for label in re.findall(r"(\w+)\s*[=!]", selector) if label not in known.get(name, ())
        ]
    return found


def test_the_rules_are_well_formed() -> None:
    errors = list(Draft202012Validator(SCHEMA).iter_errors(yaml.safe_load(RULES.read_text())))
    assert errors == []
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


def test_promtool_takes_the_rules() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_rule_fires_when_it_should_and_only_then() -> None:
    tried = promtool("test", "rules", CASES)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_every_rule_is_tried_where_it_fires_and_where_it_does_not() -> None:
    points = {case["name"]: case["promql_expr_test"] for case in cases()}
    assert set(points) == {rule["alert"] for rule in rules()}
    for name, tried in points.items():
        assert {f'alertname="{name}"' in str(point.get("exp_samples")) for point in tried} == {True, False}, name
        # Nothing expected is nothing proved where the question can have no answer.
        assert {point["expr"] for point in tried} == {FIRING}, name


def test_the_rules_are_tried_on_what_services_say() -> None:
    """Else a value misspelt in a rule and in its case alike would pass."""
    given = {name: labels | {"job", "instance", "service"} for name, labels in metrics().items()}
    for case in cases():
        for series in (one["series"] for one in case["input_series"]):
            assert wrong(series, given) == [], case["name"]
            for label, value in re.findall(r'(\w+)="([^"]*)"', series):
                known = VALUES.get((series.partition("{")[0], label), VALUES.get(("", label)))
                assert known is None or value in known, f"{case['name']}: {series}"


@pytest.mark.parametrize(("where", "expr"), list(expressions()))
def test_a_query_is_about_metrics_and_labels_that_there_are(where: str, expr: str) -> None:
    assert wrong(expr, metrics()) == [], where


@pytest.mark.parametrize(
    "expr",
    [
        "handrail_nothing > 1",
        "sum by (flow) (handrail_lag_records)",
        'handrail_ready{flow="x"}',
        "1 > 0",
        'up{flow="x"}',
    ],
)
def test_a_query_about_what_there_is_not_is_found(expr: str) -> None:
    assert wrong(expr, metrics()) != []


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    all_of = " ".join(expr for _, expr in expressions())
    counted = {name.removesuffix("_created").removesuffix("_sum").removesuffix("_count") for name in metrics()}
    told = {name for name in counted if not re.search(rf"\b{name}(_bucket)?\b", all_of)}
    assert told <= {
        "handrail_discarded_total",
        "handrail_commits_total",
        "handrail_inner_failures_total",
        "handrail_partitions",
        "handrail_full",
        "handrail_service_info",
    } | {name for name in told if name.endswith(("_total_created",))} | {
        name for name in told if f"{name}_total" in counted
    }


def test_the_dashboards_are_as_their_generator_makes_them() -> None:
    folder = ROOT / "deploy" / "grafana" / "dashboards"
    assert {path.name: path.read_text() for path in folder.glob("*.json")} == dashboards().files()


def test_there_is_a_place_that_says_what_to_do_for_every_alert() -> None:
    headings = {line.removeprefix("## ").strip() for line in PAGE.read_text().splitlines() if line.startswith("## ")}
    for rule in rules():
        page, _, place = rule["annotations"]["runbook"].partition("#")
        assert (ROOT / page) == PAGE
        assert place in headings, rule["alert"]
    assert set(WORDS) <= headings
