"""The jars of the local Kafka: fetched by jgo into the user's Maven cache, each one checked against `kafka.jars.lock`.

The lock names Maven coordinates and hashes, never an address. `python -m handrail.local.jars lock` writes it anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.errors import ConfigError, Unreachable

KAFKA_VERSION = "4.3.1"
ROOT = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
LOGGING = "org.apache.logging.log4j"
LOCK_FILE = Path(__file__).with_name("kafka.jars.lock")
_HEADER = f"""\
# Every jar of the local Kafka {KAFKA_VERSION}: Maven coordinates and hash.
# Written by `python -m handrail.local.jars lock`; do not edit.
"""


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def coordinates(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"

    def path_below(self, repository: Path) -> Path:
        """Where a Maven repository keeps this jar."""
        folder = repository.joinpath(*self.group.split("."), self.artifact, self.version)
        return folder / f"{self.artifact}-{self.version}.jar"


def read_lock(text: str) -> list[Jar]:
    """The jars of a lock file, in the order of the class path. Raises ConfigError with the line that is wrong."""
    jars = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        coordinates, _, digest = line.partition(" sha256:")
        parts = coordinates.split(":")
        if len(parts) != 3 or len(digest) != 64:
            raise ConfigError(
                f"{LOCK_FILE.name}:{number}: not `group:artifact:version sha256:<64 hex digits>`: {line!r} "
                "(restore the file, or write it anew: python -m handrail.local.jars lock)"
            )
        group, artifact, version = parts
        jars.append(Jar(group, artifact, version, digest))
    return jars


def class_path() -> list[Path]:
    """Every jar of the local Kafka, present and verified.

    Raises ConfigError when a jar differs from the lock, Unreachable when one is missing and can't be fetched.
    """
    jars = read_lock(LOCK_FILE.read_text())
    repository = _repository()
    missing = [jar for jar in jars if not jar.path_below(repository).exists()]
    if missing:
        fetch(missing, repository)
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda jar: verify(jar, jar.path_below(repository)), jars))
    return [jar.path_below(repository) for jar in jars]


def verify(jar: Jar, path: Path) -> None:
    """Raise ConfigError if the file at `path` is not the jar that was locked."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise ConfigError(
            f"{path}: this is not the {jar.coordinates} that was locked: its sha256 is {found}, "
            f"{LOCK_FILE.name} has {jar.sha256}. Delete that file and run again: it is then fetched anew"
        )


def fetch(jars: list[Jar], repository: Path) -> None:
    """Fetch `jars` into a Maven repository folder. A jar appears there only whole and verified."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(prefix=".handrail-", dir=repository)
    except OSError as error:
        raise ConfigError(
            f"{repository}: can't keep Kafka's jars there: {error.strerror} (M2_REPO=<folder> moves it)"
        ) from error
    with staging as folder:
        context = _maven(Path(folder))

        def fetch_one(jar: Jar) -> None:
            fetched = _download(context, jar)
            verify(jar, fetched)
            target = jar.path_below(repository)
            target.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(target)

        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(fetch_one, jars))


def _download(context: Any, jar: Jar) -> Path:
    try:
        component = context.project(jar.group, jar.artifact).at_version(jar.version)
        return Path(component.artifact().resolve())
    except (OSError, RuntimeError) as error:  # requests' errors are OSErrors, jgo's are RuntimeErrors
        raise Unreachable(
            f"can't fetch {jar.coordinates}, a part of the local Kafka: {error}. "
            "It needs the network once; after that the jars are in the Maven cache"
        ) from error


def _repository() -> Path:
    """The user's ordinary Maven cache: `M2_REPO`, else as jgo is configured, else `~/.m2/repository`."""
    if given := os.environ.get("M2_REPO"):
        return Path(given).absolute()
    return Path(_jgo().config.GlobalSettings.load().repo_cache)


def _maven(repository: Path) -> Any:
    jgo = _jgo()
    configured: dict[str, str] = jgo.config.GlobalSettings.load().repositories
    return jgo.maven.MavenContext(
        repo_cache=repository, local_repos=[], remote_repos={"central": jgo.MAVEN_CENTRAL_URL, **configured}, timeout=30
    )


def _jgo() -> Any:
    try:
        import jgo
    except ImportError as error:
        raise ConfigError("the local Kafka needs jgo: install handrail[local]") from error
    return jgo


def lock() -> str:
    """The text of a new lock file: what Kafka needs according to Maven, and slf4j's bridge to log4j at log4j's version.

    The bridge is no dependency of the Kafka jar (the distribution adds it), and asking Maven for both at once would let
    it choose older versions.
    """
    import jgo

    found = [(one.groupId, one.artifactId, one.version) for one in jgo.resolve(ROOT)]
    log4j = next(version for group, artifact, version in found if (group, artifact) == (LOGGING, "log4j-core"))
    found.append((LOGGING, "log4j-slf4j-impl", log4j))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        context = _maven(Path(folder))
        for group, artifact, version in found:
            path = _download(context, Jar(group, artifact, version, sha256=""))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            lines.append(f"{group}:{artifact}:{version} sha256:{digest}\n")
    return _HEADER + "".join(lines)


def main(arguments: list[str]) -> int:
    """`lock` writes the lock file anew, `check` fetches what is missing and verifies all."""
    if arguments == ["lock"]:
        LOCK_FILE.write_text(lock())
    elif arguments != ["check"]:
        sys.stderr.write("usage: python -m handrail.local.jars lock|check\n")
        return 2
    sys.stdout.write(f"{len(class_path())} jars match {LOCK_FILE.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
