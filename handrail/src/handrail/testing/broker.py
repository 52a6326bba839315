"""The pytest fixture `kafka`: a real broker, started when the first test asks for it.

It is the one of `HANDRAIL_TEST_BOOTSTRAP` if that is set, else testcontainers' Kafka where a Docker daemon answers (and
has or gets its image), else the local Kafka in a folder of its own.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from handrail.errors import HandrailError
from handrail.kafka.admin import connect
from handrail.local.broker_config import ONE_NODE
from handrail.local.kafka import LocalKafka
from handrail.local.ports import LOOPBACK, free_port

ENVIRONMENT_NAME = "HANDRAIL_TEST_BOOTSTRAP"
DOCKER_HOST = "unix:///var/run/docker.sock"
_log = logging.getLogger(__name__)


class Broker(ABC):
    """A broker that tests may stop. Its address stays the same over stop and start; so does what was written."""

    bootstrap: str

    @property
    def port(self) -> int:
        return int(self.bootstrap.rpartition(":")[2])

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers; nothing to do if it runs."""

    @abstractmethod
    def stop(self) -> None:
        """End it cleanly."""

    @abstractmethod
    def kill(self) -> None:
        """End it as a crash would."""

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()


class EmbeddedBroker(Broker):
    """The local Kafka, as `handrail up` runs it."""

    def __init__(self, folder: Path) -> None:
        self.server = LocalKafka(folder, free_port())
        self.bootstrap = self.server.bootstrap

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def kill(self) -> None:
        self.server.kill()


class ContainerBroker(Broker):
    """A Kafka in a container, on a fixed port so that it comes back at the same address."""

    def __init__(self) -> None:
        from testcontainers.community.kafka import KafkaContainer

        port = free_port()
        self._container: Any = KafkaContainer(port=9093).with_kraft().with_bind_ports(9093, port)
        for name, value in ONE_NODE.items():
            self._container.with_env("KAFKA_" + name.upper().replace(".", "_"), str(value))
        self._created = False
        self.bootstrap = f"{LOOPBACK}:{port}"

    def start(self) -> None:
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._created = True
        connect(self.bootstrap, within_s=30.0)

    def stop(self) -> None:
        self._container.get_wrapped_container().stop(timeout=15)

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def remove(self) -> None:
        """Remove the container and its data."""
        self._container.stop()


class ForeignBroker(Broker):
    """A broker that somebody else runs: tests which stop it are skipped."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def start(self) -> None:
        connect(self.bootstrap)

    def stop(self) -> None:
        pytest.skip(f"the broker of {ENVIRONMENT_NAME} can't be stopped from here")

    def kill(self) -> None:
        self.stop()


@contextmanager
def open_broker(env: Mapping[str, str]) -> Iterator[Broker]:
    """A broker that answers; at the end nothing of it is left. Raises HandrailError."""
    if given := env.get(ENVIRONMENT_NAME):
        foreign = ForeignBroker(given)
        foreign.start()
        yield foreign
    elif container := _container(env.get("DOCKER_HOST") or DOCKER_HOST):
        try:
            yield container
        finally:
            container.remove()
    else:
        folder = Path(tempfile.mkdtemp(prefix="handrail-kafka-"))
        embedded = EmbeddedBroker(folder)
        try:
            embedded.start()
            yield embedded
        finally:
            embedded.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _container(docker_host: str) -> ContainerBroker | None:
    """A started container; None where there is no Docker daemon, or it can't start one (no image, no network)."""
    if find_spec("testcontainers") is None or not docker_answers(docker_host):
        return None
    container = ContainerBroker()
    try:
        container.start()
    except Exception as error:  # docker and testcontainers have no common error; whatever it is, we have our own Kafka
        _log.warning("Docker answers but could not start Kafka, so the embedded one is used: %s", error)
        with suppress(Exception):
            container.remove()
        return None
    return container


def docker_answers(docker_host: str) -> bool:
    """Whether somebody listens at a `unix://` or `tcp://` address, the form of DOCKER_HOST."""
    address = urlsplit(docker_host)
    family: socket.AddressFamily
    target: str | tuple[str, int]
    if address.scheme == "unix":
        family, target = socket.AF_UNIX, address.path
    elif address.hostname and address.port:
        family, target = socket.AF_INET, (address.hostname, address.port)
    else:
        return False
    with socket.socket(family) as probe:
        probe.settimeout(2.0)
        return probe.connect_ex(target) == 0


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A real broker for the whole test run; use topics and groups of your own (`topic_name`)."""
    try:
        with open_broker(os.environ) as broker:
            yield broker
    except HandrailError as error:
        pytest.fail(f"no broker for the tests: {error}", pytrace=False)
