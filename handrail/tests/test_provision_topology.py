"""Which topics and groups follow from topics.yaml, flows and systems."""

from pathlib import Path

import pytest
from handrail.errors import ConfigError
from handrail.kafka.provision import source_topic
from handrail.kafka.topics import GroupSpec, Topology, stages, topology
from handrail.kafka.topics_file import TopicsFile
from hypothesis import given
from hypothesis import strategies as st

TOPICS_YAML = Path(__file__).parents[2] / "deploy" / "kafka" / "topics.yaml"
FILE = TopicsFile.load(TOPICS_YAML)
SOURCE = ("order-to-invoice", "ingest.orders.order-accepted")
DAY_MS = 86_400_000


def changed(old: str, new: str) -> TopicsFile:
    text = TOPICS_YAML.read_text()
    assert old in text
    return TopicsFile.parse(text.replace(old, new, 1), "topics.yaml")


def standard() -> Topology:
    return topology(FILE, [SOURCE], ["billing"])


def test_a_stage_is_a_group_with_one_inbox() -> None:
    assert stages([SOURCE], ["billing"]) == {
        "order-to-invoice.ingest.orders.order-accepted": "ingest.orders.order-accepted",
        "order-to-invoice.transform": "order-to-invoice.transform",
        "order-to-invoice.decision": "order-to-invoice.decision",
        "action.billing": "action.billing",
        "recovery.commands": "recovery.commands",
        "recovery.letters": "dead-letters",
    }


def test_every_stage_has_its_private_topics_with_the_partitions_of_its_inbox() -> None:
    topics = {topic.name: topic for topic in standard().topics}
    for stage, inbox in stages([SOURCE], ["billing"]).items():
        for private in ("state", "marks", "delayed", "replay"):
            assert topics[f"{stage}.{private}"].partitions == topics[inbox].partitions
    assert topics["recovery.commands.state"].partitions == 1
    assert topics["order-to-invoice.transform.state"].partitions == 4


def test_what_must_be_compacted_is_and_marks_go_by_broker_time() -> None:
    topics = {topic.name: topic.config for topic in standard().topics}
    for name in ("action.billing.state", "action.billing.delayed", "tasks", "dead-letters", "recovery.states"):
        assert topics[name]["cleanup.policy"] == "compact"
    assert topics["action.billing.marks"]["message.timestamp.type"] == "LogAppendTime"
    assert topics["action.billing.marks"]["retention.ms"] == str(14 * DAY_MS)
    assert topics["ingest.orders.order-accepted"]["retention.ms"] == str(7 * DAY_MS)
    assert topics["audit"]["retention.ms"] == "-1"


def test_dead_letters_take_128_kib_more_than_anything_that_can_die() -> None:
    topics = standard().topics
    cap = {topic.name: int(topic.config.get("max.message.bytes", "0")) for topic in topics}
    inboxes = [cap[topic.name] for topic in topics if topic.kind in {"source", "inbox"}]
    assert cap["dead-letters"] >= max(inboxes) + 128 * 1024


def test_every_group_reads_a_topic_that_there_is() -> None:
    made = standard()
    names = {topic.name for topic in made.topics}
    assert {group.topic for group in made.groups} <= names
    assert GroupSpec("console", "runs") in made.groups
    assert GroupSpec("recovery.letters", "dead-letters") in made.groups


@given(
    st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=3),
    st.lists(st.sampled_from(["billing", "crm", "shop"]), unique=True, max_size=3),
)
def test_a_flow_or_system_more_never_changes_the_topics_of_the_others(flows: list[str], systems: list[str]) -> None:
    sources = [(flow, f"ingest.things.{flow}") for flow in flows]
    small = topology(FILE, sources, systems)
    large = topology(FILE, [*sources, ("more", "ingest.things.a")], [*systems, "extra"])
    assert all(topic in large.topics for topic in small.topics)
    assert set(small.groups) <= set(large.groups)


def test_a_source_topic_of_somebody_else_keeps_its_own_partitions() -> None:
    file = changed("sources: {}", "sources: {ingest.orders.order-accepted: {partitions: 12}}")
    topics = {topic.name: topic for topic in topology(file, [SOURCE], []).topics}
    assert topics["ingest.orders.order-accepted"].partitions == 12
    assert topics["order-to-invoice.ingest.orders.order-accepted.state"].partitions == 12
    assert topics["order-to-invoice.transform"].partitions == 4


def test_a_name_that_kafka_does_not_allow_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'action\.my billing' can't be a Kafka topic"):
        topology(FILE, [], ["my billing"])


def test_versions_of_a_contract_share_a_topic() -> None:
    assert source_topic("orders/order-accepted.v1") == "ingest.orders.order-accepted"
    assert source_topic("orders/order-accepted.v12") == "ingest.orders.order-accepted"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("partitions: 4\n", "partitions: 0\n", r"topics\.yaml: partitions: 0 is not a count"),
        ("partitions: 4\n", "partitons: 4\n", r"unknown: partitons"),
        ("dedupe_window: 14d", "dedupe_window: 7d", r"kinds\.source\.retention\.ms: not shorter than dedupe_window"),
        ("dedupe_window: 14d", "dedupe_window: soon", r"dedupe_window: 'soon' is not a duration or size"),
        ("  stats:\n", "  stat:\n", r"kinds: unknown: stat "),
        ("  systems:\n    partitions: 1\n    cleanup.policy: compact\n", "", r"no settings for systems"),
        ("kinds:", "kinds: [", r"topics\.yaml: not YAML"),
        (
            "  marks:\n",
            "  marks:\n    partitions: 3\n",
            r"kinds\.marks\.partitions: a private topic has those of its inbox",
        ),
        ("sources: {}", "sources: {a: 3}", r"sources\.a: 3 is not a mapping"),
    ],
)
def test_an_error_in_the_file_is_told_with_its_place(old: str, new: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        changed(old, new)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"topics\.yaml: can't be read.*HANDRAIL_TOPICS"):
        TopicsFile.load(tmp_path / "topics.yaml")
