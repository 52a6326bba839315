"""Reading deploy/kafka/topics.yaml: counts, durations and sizes, with errors that name the place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from handrail.errors import ConfigError
from handrail.recovery.policy import DAY

PRIVATE_KINDS = ("state", "marks", "delayed", "replay")
SHARED_KINDS = (
    "runs",
    "stats",
    "tasks",
    "dead-letters",
    "dead-letters.quarantine",
    "recovery.states",
    "recovery.commands",
    "audit",
    "alerts",
    "systems",
)
KINDS = frozenset(("source", "inbox", "done", *PRIVATE_KINDS, *SHARED_KINDS))
_DURATION = re.compile(r"(\d+)(ms|s|m|h|d)")
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE = re.compile(r"(\d+)(KiB|MiB)")
_BYTES = {"KiB": 1024, "MiB": 1024 * 1024}
FOREVER = -1


@dataclass(frozen=True, slots=True)
class KindSettings:
    """Settings of one kind of topic. `partitions` is None where the deployment's count is meant."""

    partitions: int | None
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicsFile:
    """topics.yaml. `dedupe_window_ms` in ms; `sources` are partition counts of topics that others have made."""

    partitions: int
    replication: int
    dedupe_window_ms: int
    sources: Mapping[str, int]
    kinds: Mapping[str, KindSettings]

    @classmethod
    def load(cls, path: Path) -> TopicsFile:
        """Read the file. Raises ConfigError with file and place."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{path}: can't be read: {error.strerror} (run in the project's folder, or set HANDRAIL_TOPICS)"
            ) from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> TopicsFile:
        """The file's text; `name` is what errors call it."""
        reading = _Reading(name)
        try:
            raw = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{name}: not YAML: {error}") from error
        top = reading.mapping(raw, "the file", {"partitions", "replication", "dedupe_window", "sources", "kinds"})
        kinds = reading.mapping(top.get("kinds"), "kinds", KINDS)
        if missing := KINDS - kinds.keys():
            raise reading.wrong("kinds", f"no settings for {', '.join(sorted(missing))}", "add them, `{}` for none")
        window = reading.number("dedupe_window", top.get("dedupe_window"))
        settings = {kind: reading.kind(kind, value) for kind, value in kinds.items()}
        marks = settings["marks"]
        settings["marks"] = KindSettings(marks.partitions, {**marks.config, "retention.ms": str(window)})
        sources = reading.mapping(top.get("sources"), "sources")
        file = cls(
            partitions=reading.count("partitions", top.get("partitions")),
            replication=reading.count("replication", top.get("replication", 1)),
            dedupe_window_ms=window,
            sources={topic: reading.source(topic, value) for topic, value in sources.items()},
            kinds=settings,
        )
        for kind in ("source", "inbox"):
            kept = int(file.kinds[kind].config.get("retention.ms", str(7 * _MS["d"])))
            if not FOREVER < kept < window - DAY:
                raise reading.wrong(
                    f"kinds.{kind}.retention.ms",
                    "not shorter than dedupe_window by a day of retries: what is read again after the window would act twice",
                    "shorten it, or lengthen dedupe_window",
                )
        return file


class _Reading:
    """Checks of one file's values, all errors with its name and the key."""

    def __init__(self, name: str) -> None:
        self._name = name

    def wrong(self, key: str, what: str, instead: str) -> ConfigError:
        return ConfigError(f"{self._name}: {key}: {what} ({instead})")

    def mapping(self, value: Any, key: str, allowed: set[str] | frozenset[str] | None = None) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(key, f"{value!r} is not a mapping", "write `name: value` lines below it")
        unknown = {str(one) for one in value} - allowed if allowed is not None else set()
        if unknown:
            raise self.wrong(
                key, f"unknown: {', '.join(sorted(unknown))}", f"there are {', '.join(sorted(allowed or ()))}"
            )
        return {str(one): inner for one, inner in value.items()}

    def count(self, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(key, f"{value!r} is not a count", "write a whole number from 1")
        return value

    def number(self, key: str, value: Any) -> int:
        """A duration in ms or a size in bytes."""
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        text = str(value)
        if text == "forever":
            return FOREVER
        if match := _DURATION.fullmatch(text):
            return int(match[1]) * _MS[match[2]]
        if match := _SIZE.fullmatch(text):
            return int(match[1]) * _BYTES[match[2]]
        raise self.wrong(key, f"{value!r} is not a duration or size", "write 30s, 12h, 14d, forever, 64KiB or 1MiB")

    def kind(self, kind: str, value: Any) -> KindSettings:
        settings = self.mapping(value, f"kinds.{kind}")
        given = settings.pop("partitions", None)
        partitions = None if given is None else self.count(f"kinds.{kind}.partitions", given)
        if kind in PRIVATE_KINDS and partitions:
            raise self.wrong(f"kinds.{kind}.partitions", "a private topic has those of its inbox", "remove it")
        config = {}
        for key, one in settings.items():
            measured = key.endswith((".ms", ".bytes"))
            config[key] = str(self.number(f"kinds.{kind}.{key}", one)) if measured else str(one)
        return KindSettings(partitions, config)

    def source(self, topic: str, value: Any) -> int:
        inner = self.mapping(value, f"sources.{topic}", {"partitions"})
        return self.count(f"sources.{topic}.partitions", inner.get("partitions"))
