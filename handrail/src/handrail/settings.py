"""Where things are, from the environment. The only reader of `os.environ` for these names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 19092


@dataclass(frozen=True, slots=True)
class Settings:
    """Folders and addresses of one deployment."""

    home: Path
    bootstrap: str
    contracts: Path
    flows: Path
    systems: Path
    topics: Path
    ledger: Path
    ordinal: int

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read `HANDRAIL_HOME`, `_BOOTSTRAP`, `_CONTRACTS`, `_FLOWS`, `_SYSTEMS`, `_TOPICS`, `_LEDGER`, `_ORDINAL`.

        Folders that are not given are those of the project in the current folder. Kafka is, unless it is given, that of
        the stack which runs there.
        """
        home = Path(env.get("HANDRAIL_HOME", ".handrail")).absolute()
        return cls(
            home=home,
            bootstrap=env.get("HANDRAIL_BOOTSTRAP") or _running(home) or f"127.0.0.1:{DEFAULT_PORT}",
            contracts=Path(env.get("HANDRAIL_CONTRACTS", "contracts")).absolute(),
            flows=Path(env.get("HANDRAIL_FLOWS", "flows")).absolute(),
            systems=Path(env.get("HANDRAIL_SYSTEMS", "systems")).absolute(),
            topics=Path(env.get("HANDRAIL_TOPICS", "deploy/kafka/topics.yaml")).absolute(),
            ledger=Path(env.get("HANDRAIL_LEDGER", str(home / "ledger.sqlite"))).absolute(),
            ordinal=int(env.get("HANDRAIL_ORDINAL", "0")),
        )


def _running(home: Path) -> str | None:
    """Where the stack that `handrail up` started in this folder has its Kafka; up.json goes when it ends."""
    try:
        found = json.loads((home / "up.json").read_text(encoding="utf-8"))["bootstrap"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
