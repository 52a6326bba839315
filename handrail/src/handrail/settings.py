"""Where things are, from the environment. The only reader of `os.environ` for these names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handrail.errors import ConfigError

DEFAULT_PORT = 19092
JAEGER_PORT = 16686
DEFAULT_PHASE_LIMIT_S = (
    30.0  # twice the transaction time-out: a commit that hangs for longer never ends (librdkafka#5456)
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Folders and addresses of one deployment.

    `ledger` is a file's absolute path or a database's URL; `jaeger` the URL of Jaeger's API and page, `jaeger_link` that of
    its page as people's browsers reach it.
    """

    home: Path
    bootstrap: str
    contracts: Path
    flows: Path
    systems: Path
    topics: Path
    ledger: str
    ordinal: int
    phase_limit_s: float
    http: str | None
    jaeger: str
    jaeger_link: str

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read `HANDRAIL_HOME`, `_BOOTSTRAP`, `_CONTRACTS`, `_FLOWS`, `_SYSTEMS`, `_TOPICS`, `_LEDGER`, `_ORDINAL`,
        `_PHASE_LIMIT_S`, `_HTTP`, `_JAEGER`, `_JAEGER_LINK`.

        Folders that are not given are those of the project in the current folder. Kafka and Jaeger are, unless they are
        given, those of the stack which runs there. The watchdog ends a process whose stage stays in one phase (one
        message, one commit) for longer than `phase_limit_s`. Health and metrics are answered at `http` (host:port),
        where it is given. Raises ConfigError for what is no number.
        """
        home = Path(env.get("HANDRAIL_HOME", ".handrail")).absolute()
        jaeger = (env.get("HANDRAIL_JAEGER") or _page(home) or f"http://127.0.0.1:{JAEGER_PORT}").rstrip("/")
        return cls(
            home=home,
            bootstrap=env.get("HANDRAIL_BOOTSTRAP") or _running(home) or f"127.0.0.1:{DEFAULT_PORT}",
            contracts=Path(env.get("HANDRAIL_CONTRACTS", "contracts")).absolute(),
            flows=Path(env.get("HANDRAIL_FLOWS", "flows")).absolute(),
            systems=Path(env.get("HANDRAIL_SYSTEMS", "systems")).absolute(),
            topics=Path(env.get("HANDRAIL_TOPICS", "deploy/kafka/topics.yaml")).absolute(),
            ledger=_ledger(env.get("HANDRAIL_LEDGER") or str(home / "ledger.sqlite")),
            ordinal=int(_number(env, "HANDRAIL_ORDINAL", 0)),
            phase_limit_s=_number(env, "HANDRAIL_PHASE_LIMIT_S", DEFAULT_PHASE_LIMIT_S),
            http=env.get("HANDRAIL_HTTP") or None,
            jaeger=jaeger,
            jaeger_link=(env.get("HANDRAIL_JAEGER_LINK") or jaeger).rstrip("/"),
        )


def _ledger(given: str) -> str:
    return given if "://" in given else str(Path(given).absolute())


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "")
    try:
        number = float(text) if text else default
    except ValueError:
        raise ConfigError(f"{name}={text!r} is no number") from None
    if number < 0:
        raise ConfigError(f"{name}={text!r} is below 0")
    return number


def _running(home: Path) -> str | None:
    """Where the stack that `handrail up` started in this folder has its Kafka."""
    found = _stack(home).get("bootstrap")
    return found if isinstance(found, str) else None


def _page(home: Path) -> str | None:
    """Where that stack has its Jaeger."""
    services = _stack(home).get("services")
    pages = [one.get("page") for one in services if isinstance(one, dict)] if isinstance(services, list) else []
    return next((page for page in pages if isinstance(page, str)), None)


def _stack(home: Path) -> dict[str, Any]:
    """The state file; up.json goes when the stack ends."""
    try:
        found = json.loads((home / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
