"""The lock of the local Kafka's jars."""

import hashlib
import re
from pathlib import Path

import pytest
from handrail.errors import ConfigError
from handrail.local import jars
from handrail.local.jars import KAFKA_VERSION, LOCK_FILE, Jar, read_lock, verify


def test_the_lock_names_coordinates_and_hashes_and_no_address() -> None:
    text = LOCK_FILE.read_text()
    assert f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION} " in text
    assert "//" not in text
    assert all(re.fullmatch(r"\S+:\S+:\S+ sha256:[0-9a-f]{64}|#.*", line) for line in text.splitlines())


def test_log4j_is_locked_with_the_bridge_that_kafka_logs_through() -> None:
    found = {(jar.artifact, jar.version) for jar in read_lock(LOCK_FILE.read_text())}
    core = next(version for artifact, version in found if artifact == "log4j-core")
    assert ("log4j-slf4j-impl", core) in found


def test_a_jar_that_differs_is_told_with_both_hashes(tmp_path: Path) -> None:
    locked = Jar("org.example", "thing", "1.0", hashlib.sha256(b"good").hexdigest())
    path = locked.path_below(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"evil")
    with pytest.raises(ConfigError, match=r"thing-1\.0\.jar: this is not the org\.example:thing:1\.0") as raised:
        verify(locked, path)
    assert locked.sha256 in str(raised.value)
    assert hashlib.sha256(b"evil").hexdigest() in str(raised.value)


def test_the_locked_jar_passes(tmp_path: Path) -> None:
    path = tmp_path / "thing.jar"
    path.write_bytes(b"good")
    verify(Jar("org.example", "thing", "1.0", hashlib.sha256(b"good").hexdigest()), path)


@pytest.mark.parametrize("line", ["org.example:thing sha256:" + "0" * 64, "org.example:thing:1.0", "a:b:c sha256:12"])
def test_a_torn_lock_file_is_told_with_its_line(line: str) -> None:
    with pytest.raises(ConfigError, match=r"kafka\.jars\.lock:2: not `group:artifact:version"):
        read_lock(f"# a comment\n{line}\n")


def test_every_jar_that_is_run_was_verified() -> None:
    locked = {f"{jar.artifact}-{jar.version}.jar" for jar in read_lock(LOCK_FILE.read_text())}
    assert {path.name for path in jars.class_path()} == locked


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    not_a_folder = tmp_path / "repository"
    not_a_folder.write_text("")
    with pytest.raises(ConfigError, match=r"can't keep Kafka's jars there: .* \(M2_REPO"):
        jars.fetch([Jar("org.example", "thing", "1.0", "0" * 64)], not_a_folder)
