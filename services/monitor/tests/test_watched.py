"""What is watched follows from the project's own flows."""

from __future__ import annotations

from pathlib import Path

import pytest
from handrail.contracts import Contracts
from handrail.flow import Flows
from handrail.kafka.topics import MONITOR_GROUP, MONITOR_READS, topology
from handrail.kafka.topics_file import TopicsFile
from handrail.local.services import SERVICES
from handrail_monitor.restore import GROUP, STATES, STATS
from handrail_monitor.watched import Watched, service_of

ROOT = Path(__file__).parents[3]


def test_the_flows_of_this_repository_are_watched(contracts: Contracts) -> None:
    watched = Watched.of(Flows.load(ROOT / "flows", ROOT / "systems", contracts), "https://example.com/")
    flow = watched.flows["order-to-invoice"]
    assert flow.owner == "billing-ops@example.com"
    assert flow.ingest == ("order-to-invoice.ingest.orders.order-accepted",)
    assert flow.systems == ("billing",)
    assert (ROOT / flow.runbook).is_file()
    shared = {"action.billing", "recovery.commands", "recovery.letters", "console"}
    assert set(watched.expected) == {*flow.stages, *shared}
    assert set(watched.expected.values()) <= {one.name for one in SERVICES}
    assert watched.owner(None, "billing") == watched.owner(None, None) == "billing-ops@example.com"
    assert watched.owner(None, "crm") == "crm-team@example.com"
    assert watched.owner("order-to-invoice", "crm") == "billing-ops@example.com"
    assert watched.owner(None, "none-such") is None


@pytest.mark.parametrize(
    ("stage", "service"),
    [
        ("action.billing", "action"),
        ("recovery.letters", "recovery"),
        ("console", "console"),
        ("a-flow.ingest.orders.order-accepted", "ingest"),
        ("a-flow.transform", "transform"),
        ("a-flow.decision", "decision"),
    ],
)
def test_a_stages_name_says_which_service_runs_it(stage: str, service: str) -> None:
    assert service_of(stage) == service


def test_its_group_and_topics_are_provisioned() -> None:
    made = topology(TopicsFile.load(ROOT / "deploy" / "kafka" / "topics.yaml"), [], [])
    assert {(one.group, one.topic) for one in made.groups if one.group == GROUP} == {
        (GROUP, one) for one in (STATS, *STATES)
    }
    assert (MONITOR_GROUP, set(MONITOR_READS)) == (GROUP, {STATS, *STATES})
