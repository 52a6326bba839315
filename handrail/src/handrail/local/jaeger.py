"""A real Jaeger as one more process of the local stack: its image where Docker answers, else a program."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import yaml

from handrail.errors import ConfigError
from handrail.local.go import GoProgram, NoGo
from handrail.local.jaeger_config import EARLY_S, configuration
from handrail.local.ports import LOOPBACK, free_port, holder, is_free
from handrail.local.services import Program
from handrail.settings import JAEGER_PORT
from handrail.telemetry import SEND, UNSAMPLED

PROGRAM = GoProgram(
    "jaeger", "github.com/jaegertracing/jaeger", "v1.76.0", "cmd/jaeger", takes="some 4 minutes on a quick machine"
)
IMAGE = "jaegertracing/jaeger:2.13.0"
"""The release that the module's v1.76.0 is: both numbers are of one commit."""
OTLP_PORT = 4318
_DOCKER_S = 5.0
_CLEAR_S = 20.0
PULL_S = 600.0
_CONFIG = "jaeger.yaml"
_IN_THE_CONTAINER = "/etc/jaeger.yaml"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where Jaeger listens: page and API, OTLP over HTTP, and its API over gRPC, which can't be switched off."""

    page: int
    otlp: int
    grpc: int

    @classmethod
    def choose(cls, asked: str | None) -> Self:
        """The page's port as a HANDRAIL_JAEGER that was `asked` for says; the usual ports where they are free, else others.

        Raises ConfigError when the port that was asked for is taken, or is not on this machine.
        """
        return cls(_page(asked), _usual(OTLP_PORT), free_port())


@dataclass(frozen=True, slots=True)
class Jaeger:
    """How it is run: `image` in Docker, or `program`. Traces are kept in memory, and go when it ends."""

    ports: Ports
    program: Path | None
    early_s: int = EARLY_S

    @classmethod
    def find(cls, env: Mapping[str, str], ports: Ports, say: Callable[[str], None]) -> Self:
        """The image where Docker gives it, else the program of the PATH, else one built from its Go module.

        The image is here when this returns: fetching it takes longer than anybody waits for a process. Raises ConfigError
        where there is none of them, HandrailError when it can't be built.
        """
        docker = docker_answers(env)
        if docker and has_image(env, say):
            return cls(ports, None)
        try:
            return cls(ports, PROGRAM.get(env, say))
        except NoGo as error:
            lacks = "Docker can't fetch its image" if docker else "Docker does not answer"
            raise ConfigError(f"{lacks}, and {error}; or go without it") from error

    @staticmethod
    def clear_away(env: Mapping[str, str], folder: Path) -> None:
        """Remove the container that an ended stack of this folder has left: it goes on when its `docker run` is killed.

        Before ports are chosen: it would still have them.
        """
        if shutil.which("docker", path=env.get("PATH")) is not None:
            _docker(env, _CLEAR_S, "rm", "-f", _container(_file(folder)))

    @property
    def page(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.page}"

    @property
    def otlp(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.otlp}"

    def settings(self) -> dict[str, str]:
        """What services and commands must know to send spans there and to look at them."""
        return {
            "HANDRAIL_JAEGER": self.page,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{self.otlp}/v1/traces",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            UNSAMPLED: SEND,
        }

    def process(self, folder: Path) -> Program:
        """The process, with its configuration written below `folder`. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        file = _file(folder)
        host = LOOPBACK if self.program else "0.0.0.0"
        told = configuration(host, **asdict(self.ports), early_s=self.early_s)
        file.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
        if self.program is not None:
            return Program("jaeger", (str(self.program), "--config", str(file)), page=self.page)
        name = _container(file)
        return Program("jaeger", run_image(name, file, self.ports), before=("docker", "rm", "-f", name), page=self.page)


def run_image(name: str, file: Path, ports: Ports) -> tuple[str, ...]:
    """The command that runs the image; Docker hands its signals on, and the container goes when it ends."""
    published = [part for port in (ports.page, ports.otlp) for part in ("-p", f"{LOOPBACK}:{port}:{port}")]
    mounted = ("-v", f"{file}:{_IN_THE_CONTAINER}:ro")
    return ("docker", "run", "--rm", "--name", name, *published, *mounted, IMAGE, "--config", _IN_THE_CONTAINER)


def docker_answers(env: Mapping[str, str]) -> bool:
    """Whether there is a Docker daemon that would run an image."""
    return _docker(env, _DOCKER_S, "version", "--format", "{{.Server.Version}}")


def has_image(env: Mapping[str, str], say: Callable[[str], None]) -> bool:
    """Whether Docker has the image by now; it is fetched, once, where it has to be."""
    if _docker(env, _DOCKER_S, "image", "inspect", IMAGE):
        return True
    say(f"fetching {IMAGE}, this one time")
    if _docker(env, PULL_S, "pull", "-q", IMAGE):
        return True
    say("Docker can't fetch it")
    return False


def _docker(env: Mapping[str, str], within_s: float, *arguments: str) -> bool:
    docker = shutil.which("docker", path=env.get("PATH"))
    if docker is None:
        return False
    try:
        ended = subprocess.run([docker, *arguments], env=dict(env), capture_output=True, timeout=within_s, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return ended.returncode == 0


def _file(folder: Path) -> Path:
    return (folder / _CONFIG).absolute()


def _container(file: Path) -> str:
    """One name for each folder, so that what is left of an earlier one is found."""
    return "handrail-jaeger-" + hashlib.sha256(str(file).encode()).hexdigest()[:12]


def _page(asked: str | None) -> int:
    if asked is None:
        return _usual(JAEGER_PORT)
    parts = urlsplit(asked)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.hostname not in (LOOPBACK, "localhost") or not port:
        raise ConfigError(
            f"HANDRAIL_JAEGER={asked}: --jaeger starts one on this machine: write http://{LOOPBACK}:<port>, or leave it "
            "out; to use one that runs elsewhere, leave --jaeger out and set OTEL_EXPORTER_OTLP_ENDPOINT"
        )
    if not is_free(port):
        raise ConfigError(f"HANDRAIL_JAEGER={asked}: the port is taken by {holder(port) or 'another process'}")
    return port


def _usual(port: int) -> int:
    return port if is_free(port) else free_port()
