"""One stage, run from the environment, so that any harness can drive it on any broker: the very class of the services.

    BOOTSTRAP  TOPIC_IN  TOPIC_OUT  GROUP  SCHEMA_FILE (.avsc)  SCHEMA_ID      and, if wished, HANDRAIL_HOME, HANDRAIL_ORDINAL

It reads records in the Confluent wire format whose only header is `traceparent`, drops those whose field `id` came before,
doubles the field `amount` and sends them on. TOPIC_IN and TOPIC_OUT exist; the stage's own topics are made here. Kill it
half way, delete HANDRAIL_HOME: it restores its marks from Kafka. SIGTERM ends it with exit code 0.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from handrail.contracts.collection import Contracts
from handrail.contracts.model import Contract
from handrail.contracts.reading import read_folder
from handrail.kafka.admin import connect
from handrail.kafka.inspect import describe
from handrail.kafka.provision import provision
from handrail.kafka.topics import GroupSpec, TopicSpec, Topology
from handrail.kafka.topics_file import TopicsFile
from handrail.message import Due, Finished, Message, Output
from handrail.pending import View
from handrail.service import Ground, Plan, guard, host
from handrail.settings import Settings
from handrail.spec import Spec
from handrail.stage import private_topics
from handrail.telemetry import Telemetry

PROJECT = Path(__file__).parents[1]
CONTRACT = "bench/record.v1"
LETTERS = ("dead-letters", "recovery.letters.replay")


def main() -> None:
    """Run until SIGTERM; never returns."""
    guard("stage-app", run)


def run(stop: threading.Event) -> int:
    """Make the stage's own topics and run the stage; the exit code."""
    env = dict(os.environ)
    env.setdefault("HANDRAIL_CONTRACTS", str(PROJECT / "contracts"))
    env.setdefault("HANDRAIL_TOPICS", str(PROJECT / "deploy" / "kafka" / "topics.yaml"))
    settings = Settings.from_env({**env, "HANDRAIL_BOOTSTRAP": env["BOOTSTRAP"]})
    stage, inbox, outbox = env["GROUP"], env["TOPIC_IN"], env["TOPIC_OUT"]
    admin = connect(settings.bootstrap, within_s=30)
    file = TopicsFile.load(settings.topics)
    provision(settings.bootstrap, topology(file, stage, inbox, describe(admin)[inbox].partitions))
    schema = json.loads(Path(env["SCHEMA_FILE"]).read_text())
    contracts = Contracts(
        [*read_folder(settings.contracts), Contract(CONTRACT, int(env["SCHEMA_ID"]), schema, (), "", "")]
    )
    ground = Ground(
        "stage-app", settings, contracts, describe(admin), Telemetry.from_env("stage-app", env), file.dedupe_window_ms
    )

    def double(given: Message | Due | Finished, _view: View) -> Iterable[Output]:
        if not isinstance(given, Message):
            raise TypeError(f"no timers are set here, yet {type(given).__name__} came")
        return [Output(outbox, CONTRACT, given.key, body={**given.body, "amount": given.body["amount"] * 2})]

    spec = Spec(
        name=stage,
        inbox=inbox,
        accepts=frozenset({CONTRACT}),
        handler=double,
        partitions=ground.partitions,
        knows=lambda _flow, _version: True,
        public=True,
        identify=lambda message: str(message.body["id"]),
    )
    return host([Plan(spec)], ground, stop)


def topology(file: TopicsFile, stage: str, inbox: str, partitions: int) -> Topology:
    """The stage's private topics, the dead letters, and the starting offset of its group."""
    private = [
        TopicSpec(topic, kind, partitions, file.kinds[kind].config)
        for topic in private_topics(stage)
        for kind in [topic.rpartition(".")[2]]
    ]
    shared = [
        TopicSpec(LETTERS[0], LETTERS[0], partitions, file.kinds["dead-letters"].config),
        TopicSpec(LETTERS[1], "replay", partitions, file.kinds["replay"].config),
    ]
    return Topology((*private, *shared), (GroupSpec(stage, inbox),), file.replication)


if __name__ == "__main__":
    main()
