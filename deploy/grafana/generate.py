"""Makes dashboards/*.json: `python deploy/grafana/generate.py`. A test sees that they are what this makes.

Panels are rows of (title, unit, [(legend, query)]): nothing else of a dashboard is ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
Panel = tuple[str, str, list[tuple[str, str]]]

HEALTH: list[Panel] = [
    ("Stages that are ready", "short", [("{{stage}}", "max by (stage) (handrail_ready)")]),
    ("Records that wait", "short", [("{{stage}}", "sum by (stage) (handrail_lag_records)")]),
    ("Behind", "s", [("{{stage}}", "max by (stage) (handrail_inbox_behind_seconds)")]),
    ("Taken a second", "reqps", [("{{stage}}", "sum by (stage) (rate(handrail_consumed_total[1m]))")]),
    ("Done a second", "reqps", [("{{stage}}", "sum by (stage) (rate(handrail_done_total[1m]))")]),
    ("Duplicates stopped", "short", [("{{stage}}", "sum by (stage) (increase(handrail_dedupe_hits_total[5m]))")]),
    (
        "Commit, p50 and p99",
        "s",
        [
            ("p50 {{stage}}", "histogram_quantile(0.5, sum by (le, stage) (rate(handrail_commit_seconds_bucket[5m])))"),
            (
                "p99 {{stage}}",
                "histogram_quantile(0.99, sum by (le, stage) (rate(handrail_commit_seconds_bucket[5m])))",
            ),
        ],
    ),
    (
        "Transactions given up",
        "short",
        [("{{stage}} {{reason}}", "sum by (stage, reason) (increase(handrail_transactions_aborted_total[5m]))")],
    ),
    ("Partitions paused", "short", [("{{stage}}", "sum by (stage) (handrail_held_partitions)")]),
    ("Memory of duplicates left", "s", [("{{stage}}", "min by (stage) (handrail_dedupe_headroom_seconds)")]),
]
FAILURES: list[Panel] = [
    (
        "Calls by result",
        "reqps",
        [("{{stage}} {{result}}", "sum by (stage, result) (rate(handrail_calls_total[1m]))")],
    ),
    (
        "Runs that ended",
        "short",
        [("{{stage}} {{result}}", "sum by (stage, result) (increase(handrail_runs_ended_total[5m]))")],
    ),
    (
        "Attempts that failed",
        "short",
        [("{{stage}} {{class}}", "sum by (stage, class) (increase(handrail_failures_total[5m]))")],
    ),
    ("Dead letters", "short", [("{{stage}}", "sum by (stage) (increase(handrail_dead_letters_total[5m]))")]),
    (
        "Dead letters that are open",
        "short",
        [("{{flow}} {{class}}", "max by (flow, class) (handrail_dead_letters_open)")],
    ),
    ("Oldest of them", "s", [("{{flow}}", "max by (flow) (handrail_dead_letter_oldest_age_seconds)")]),
    ("Records that wait for their next attempt", "short", [("{{stage}}", "sum by (stage) (handrail_waiting_records)")]),
    ("Oldest of them", "s", [("{{stage}}", "max by (stage) (handrail_waiting_oldest_age_seconds)")]),
    ("Keys held back", "short", [("{{stage}}", "sum by (stage) (handrail_blocked_keys)")]),
    ("Calls under way", "short", [("{{stage}}", "sum by (stage) (handrail_open)")]),
    ("Oldest of them", "s", [("{{stage}}", "max by (stage) (handrail_open_oldest_age_seconds)")]),
    (
        "Retries: how late, p99",
        "s",
        [
            (
                "{{stage}}",
                "histogram_quantile(0.99, sum by (le, stage) (rate(handrail_retry_lateness_seconds_bucket[5m])))",
            )
        ],
    ),
    (
        "Retries: age, p95",
        "s",
        [("{{stage}}", "histogram_quantile(0.95, sum by (le, stage) (rate(handrail_retry_age_seconds_bucket[15m])))")],
    ),
    ("Put back for later", "short", [("{{stage}}", "sum by (stage) (increase(handrail_delayed_total[5m]))")]),
    ("Tasks that are open", "short", [("{{flow}}", "max by (flow) (handrail_tasks_open)")]),
]
DASHBOARDS = {"handrail-health": ("Handrail: health", HEALTH), "handrail-failures": ("Handrail: failures", FAILURES)}


def dashboard(uid: str, title: str, panels: list[Panel]) -> dict[str, Any]:
    """One dashboard as Grafana imports it; which Prometheus it asks is a variable of it."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["handrail"],
        "schemaVersion": 39,
        "version": 1,
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, *panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, title: str, unit: str, queries: list[tuple[str, str]]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": expr, "legendFormat": legend}
            for place, (legend, expr) in enumerate(queries)
        ],
    }


def files() -> dict[str, str]:
    """The name of each file, and its text."""
    return {
        f"{uid}.json": json.dumps(dashboard(uid, *what), indent=2) + "\n" for uid, what in sorted(DASHBOARDS.items())
    }


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
