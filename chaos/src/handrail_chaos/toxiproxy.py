"""Toxiproxy between the services and what they talk to: built from its Go module, told what to do over HTTP."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handrail.errors import HandrailError
from handrail.local import processes
from handrail.local.go import GoProgram, NoGo
from handrail.local.ports import LOOPBACK

from handrail_chaos.errors import ChaosError

PROGRAM = GoProgram("toxiproxy-server", "github.com/Shopify/toxiproxy/v2", "v2.12.0", "cmd/server")
NO_GO = (
    "there is no Go on the PATH to build Toxiproxy with, so the faults of the network are left out; install Go, or put a "
    "toxiproxy-server on the PATH"
)
_CALL_S = 10.0


def built() -> Path | None:
    """The server: that of the PATH, or built once from its module into the user's cache; None where there is no Go.

    Raises ChaosError when it can't be built.
    """
    try:
        return PROGRAM.get(os.environ, lambda _text: None)
    except NoGo:
        return None
    except HandrailError as error:
        raise ChaosError(str(error)) from error


class Toxiproxy:
    """One server process. Make and start it from a thread that outlives it (handrail.local.launch)."""

    def __init__(self, program: Path, port: int, log: Path) -> None:
        self._port = port
        with log.open("ab") as output:
            self._child = processes.spawn(
                [str(program), "-host", LOOPBACK, "-port", str(port)],
                env={**os.environ, "LOG_LEVEL": "warn"},
                output=output,
            )
        self._wait(log)

    def proxy(self, name: str, listen: int, upstream: int) -> None:
        """A proxy on loopback."""
        self._ask(
            "POST",
            "/proxies",
            {
                "name": name,
                "listen": f"{LOOPBACK}:{listen}",
                "upstream": f"{LOOPBACK}:{upstream}",
                "enabled": True,
            },
        )

    def cut(self, name: str, cut: bool) -> None:
        """Close its port and every connection through it, or let it be again."""
        self._ask("POST", f"/proxies/{name}", {"enabled": not cut})

    def add(self, name: str, toxic: str, stream: str, attributes: Mapping[str, Any]) -> None:
        """A toxic on one direction (`upstream`: towards the server; `downstream`: back), replacing one of its name."""
        self.remove(name, toxic, stream)
        body = {"name": f"{toxic}_{stream}", "type": toxic, "stream": stream, "attributes": dict(attributes)}
        self._ask("POST", f"/proxies/{name}/toxics", body)

    def remove(self, name: str, toxic: str, stream: str) -> None:
        """Take a toxic off; nothing to do where there is none."""
        self._ask("DELETE", f"/proxies/{name}/toxics/{toxic}_{stream}", missing_ok=True)

    def heal(self) -> None:
        """Every proxy open, no toxics."""
        self._ask("POST", "/reset")

    def stop(self) -> None:
        """End it."""
        processes.terminate([self._child], 2.0)

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + _CALL_S
        while time.monotonic() < deadline and self._child.poll() is None:
            try:
                self._ask("GET", "/version")
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise ChaosError(f"Toxiproxy did not start: see {log}")

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, *, missing_ok: bool = False) -> None:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self._port}{path}", data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=_CALL_S) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if not (missing_ok and error.code == 404):
                    raise ChaosError(f"Toxiproxy: {method} {path}: {error.code} {error.read().decode()}") from error
