"""What the local Kafka is told: `server.properties` and `log4j2.properties`, as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from handrail.local.ports import LOOPBACK

NODE_ID = 1
MIB = 1024 * 1024
# A message of 1 MiB may grow by 128 KiB of dead letter; the broker's own cap has to allow the largest topic's.
MAX_MESSAGE = MIB + 128 * 1024 + 64 * 1024


# What a one-node broker for work and tests is told, wherever it runs (a container in tests, too).
ONE_NODE: Mapping[str, int | str] = {
    "auto.create.topics.enable": "false",
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "offsets.retention.minutes": 60 * 24 * 30,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 500,
    # A broker that was killed is let in again only when its old session has ended: 9 s by default.
    "broker.session.timeout.ms": 2000,
    "broker.heartbeat.interval.ms": 250,
    "message.max.bytes": MAX_MESSAGE,
    "replica.fetch.max.bytes": MAX_MESSAGE,
}


def server_properties(
    *, port: int, controller_port: int, data: Path, over: Mapping[str, int | str] | None = None
) -> str:
    """One node that is broker and controller, on loopback only, quick with groups and transactions, small on disk.

    The quorum is named here and not kept in the data (`format --standalone` would), so that the controller's port may
    be another one at every start. What `over` says goes before our own.
    """
    settings = {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "controller.quorum.voters": f"{NODE_ID}@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": _escape(str(data)),
        **ONE_NODE,
        # Index files are preallocated at this size per segment: the default of 10 MiB times hundreds of partitions.
        "log.index.size.max.bytes": 256 * 1024,
        "log.segment.bytes": 128 * MIB,
        "log.cleaner.dedupe.buffer.size": 16 * MIB,
        "num.network.threads": 2,
        "num.io.threads": 4,
        "num.recovery.threads.per.data.dir": 2,
        **(over or {}),
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def log4j2_properties(log_file: Path) -> str:
    """Warnings and Kafka's own progress into one file of at most 4 x 10 MB; nothing on the console but what broke."""
    return f"""\
status=error
shutdownHook=disable
name=handrail-local-kafka
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log_file.as_posix()}
appender.file.filePattern={log_file.as_posix()}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{yyyy-MM-dd'T'HH:mm:ss.SSSXXX}}{{UTC}} %-5p %c{{1}} %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
rootLogger.level=info
rootLogger.appenderRef.file.ref=file
logger.state.name=state.change.logger
logger.state.level=warn
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=warn
"""


def _escape(value: str) -> str:
    """A value of a Java properties file: its backslash escapes (Windows paths)."""
    return value.replace("\\", "\\\\")
