"""Whom to ask about a flow or a system: read from their files, without running anything that stands there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handrail.errors import Problem
from handrail.flow.duration import parse_duration
from handrail.flow.reading import read_yaml


@dataclass(frozen=True, slots=True)
class About:
    """What a file says of its flow or system; None where it says nothing."""

    owner: str | None = None
    purpose: str | None = None
    systems: frozenset[str] = frozenset()
    """Those that a flow's steps call."""
    version: int = 0
    review_ms: int | None = None
    """How often the flow wants to be reviewed."""


@dataclass(frozen=True, slots=True)
class Owners:
    """Flows (of each the newest version) and systems by name. What can't be read is left out: the page must come up."""

    flows: Mapping[str, About] = field(default_factory=dict)
    systems: Mapping[str, About] = field(default_factory=dict)

    @classmethod
    def load(cls, flows: Path, systems: Path) -> Owners:
        """From the folders of flows and systems."""
        files = sorted(flows.glob("*/v*/flow.yaml"), key=lambda file: (file.parts[-3], _version(file)))
        return cls(
            {file.parts[-3]: _about(file) for file in files if not file.parts[-3].startswith((".", "_"))},
            {file.stem: _about(file) for file in sorted(systems.glob("*.yaml"))},
        )

    def of(self, flow: str | None, stage: str | None = None) -> str | None:
        """Who owns a flow; where there is none, the system or flow that the stage is named for."""
        if flow:
            return self.flows.get(flow, About()).owner
        kind, _, name = (stage or "").partition(".")
        found = self.systems.get(name) if kind == "action" else self.flows.get(kind)
        return found.owner if found else None


def _version(file: Path) -> int:
    number = file.parts[-2].removeprefix("v")
    return int(number) if number.isascii() and number.isdecimal() else 0


def _about(file: Path) -> About:
    problems: list[Problem] = []
    document = read_yaml(file, file.name, problems)
    data: Any = document.data if document else None
    if not isinstance(data, dict):
        return About()
    people = data.get("people")
    owner = _text(people.get("owner")) if isinstance(people, dict) else None
    systems, review = _systems(data.get("steps")), _duration(data.get("review"))
    return About(owner, _text(data.get("purpose")), systems, _version(file), review)


def _systems(steps: object) -> frozenset[str]:
    calls = [one.get("call") for one in steps if isinstance(one, dict)] if isinstance(steps, list) else []
    return frozenset(call.partition(".")[0] for call in calls if isinstance(call, str))


def _duration(value: object) -> int | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
