"""Which topics and consumer groups a deployment has: a pure function of topics.yaml, the flows and the systems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from handrail.errors import ConfigError
from handrail.kafka.topics_file import PRIVATE_KINDS, SHARED_KINDS, TopicsFile

Source = tuple[str, str]
"""A flow's name and a source topic of it, as `ingest.<domain>.<event>`."""

CONSOLE_GROUP = "console"
MONITOR_GROUP = "monitor"
MONITOR_READS = ("stats", "dead-letters", "recovery.states", "systems")
CONSOLE_READS = ("runs", "stats", "tasks", "dead-letters", "recovery.states", "audit", "alerts", "systems")
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as it has to be. `config` holds Kafka's names and values as text."""

    name: str
    kind: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """A consumer group and a topic that it reads from a committed offset."""

    group: str
    topic: str


@dataclass(frozen=True, slots=True)
class Topology:
    """All topics and groups of a deployment."""

    topics: tuple[TopicSpec, ...] = ()
    groups: tuple[GroupSpec, ...] = ()
    replication: int = 1


def stages(sources: Iterable[Source], systems: Iterable[str]) -> dict[str, str]:
    """Every stage with its inbox topic. A stage's name is its consumer group, too."""
    found = {}
    for flow, topic in sources:
        found[f"{flow}.ingest.{topic.removeprefix('ingest.')}"] = topic
        found[f"{flow}.transform"] = f"{flow}.transform"
        found[f"{flow}.decision"] = f"{flow}.decision"
    for system in systems:
        found[f"action.{system}"] = f"action.{system}"
    found["recovery.commands"] = "recovery.commands"
    found["recovery.letters"] = "dead-letters"
    return found


def topology(file: TopicsFile, sources: Sequence[Source], systems: Sequence[str]) -> Topology:
    """Every topic and group, sorted by name. Raises ConfigError for a name that Kafka does not allow."""
    topics: dict[str, TopicSpec] = {}

    def add(name: str, kind: str, partitions: int | None = None) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} can't be a Kafka topic: use letters, digits, `.`, `-`, `_`, at most 249")
        settings = file.kinds[kind]
        count = partitions or settings.partitions or file.partitions
        topics[name] = TopicSpec(name, kind, count, settings.config)

    for kind in SHARED_KINDS:
        add(kind, kind)
    for flow, topic in sources:
        add(topic, "source", file.sources.get(topic))
        add(f"{flow}.done", "done")
    by_stage = stages(sources, systems)
    for inbox in by_stage.values():
        if inbox not in topics:
            add(inbox, "inbox")
    for stage, inbox in by_stage.items():
        for private in PRIVATE_KINDS:
            add(f"{stage}.{private}", private, topics[inbox].partitions)
    groups = [GroupSpec(stage, inbox) for stage, inbox in by_stage.items()]
    groups += [GroupSpec(CONSOLE_GROUP, topic) for topic in CONSOLE_READS]
    groups += [GroupSpec(MONITOR_GROUP, topic) for topic in MONITOR_READS]
    return Topology(
        tuple(sorted(topics.values(), key=lambda topic: topic.name)),
        tuple(sorted(groups, key=lambda group: (group.group, group.topic))),
        file.replication,
    )
