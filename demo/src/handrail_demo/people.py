"""What the people of the demo do: they decide the reviews, write some invoices by hand, and replay what can be replayed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handrail.contracts import Contracts
from handrail_console.orders import Order, Said, Sender, task_order

from handrail_demo.errors import DemoError
from handrail_demo.plain import PlainContracts, read_topic

_NAME = "demo@example.com"
_REJECT_EVERY, _BY_HAND_EVERY = 5, 7


class People:
    """They use what every operator has: the commands' orders, the command line, and billing's own front door."""

    def __init__(self, bootstrap: str, contracts: Path, billing: str, env: Mapping[str, str]) -> None:
        self._bootstrap, self._billing, self._env = bootstrap, billing, dict(env)
        self._plain = PlainContracts(contracts)
        self._send = Sender(bootstrap, Contracts.load(contracts))

    def decide_tasks(self) -> Counter[str]:
        """Answer every open task: every fifth review is refused, every seventh task is finished by hand."""
        orders: list[Order] = []
        verdicts: Counter[str] = Counter()
        for number, task in enumerate(self._open_tasks(), 1):
            verdict = self._verdict(number, task)
            if verdict == "done":
                write_invoice(self._billing, json.loads(task["context"])["request"])
            reason = "the credit line is used up" if verdict == "reject" else "looked at it"
            orders.append(task_order(verdict, task, Said(_NAME, reason), int(time.time() * 1000)))
            verdicts[verdict] += 1
        if orders:
            self._send(orders)
        return verdicts

    def replay_what_can_be(self) -> str:
        """`handrail dlq replay --all --class transient --wait 60`: its last line. Raises DemoError when it failed."""
        command = [
            str(Path(sys.executable).parent / "handrail"), "dlq", "replay", "--all", "--class", "transient",
            "--yes", "--reason", "billing is mended", "--by", _NAME, "--wait", "60",
        ]  # fmt: skip
        ended = subprocess.run(command, env=self._env, capture_output=True, text=True, check=False, timeout=120)
        if ended.returncode:
            raise DemoError(f"`handrail dlq replay` failed ({ended.returncode}): {ended.stdout}{ended.stderr}")
        return (ended.stdout or ended.stderr).strip().splitlines()[-1]

    def _open_tasks(self) -> list[dict[str, Any]]:
        newest: dict[str, dict[str, Any]] = {}
        for record in read_topic(self._bootstrap, "tasks", self._plain):
            if record.value is not None:
                newest[record.value["task"]] = record.value
        return [newest[task] for task in sorted(newest) if newest[task]["state"] == "open"]

    def _verdict(self, number: int, task: Mapping[str, Any]) -> str:
        if task["kind"] == "manual" or number % _BY_HAND_EVERY == 0:
            return "done"
        return "reject" if number % _REJECT_EVERY == 0 else "approve"


def write_invoice(billing: str, body: Mapping[str, Any]) -> None:
    """As a person would in billing's own front end: look whether it is there, else write it. Raises DemoError, OSError."""
    if invoice_is_there(billing, body["reference"]):
        return
    request = urllib.request.Request(
        f"{billing}/invoices", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        if answer.status != 201:
            raise DemoError(f"billing did not take an invoice written by hand: {answer.status}")


def invoice_is_there(billing: str, reference: str) -> bool:
    """Whether billing has an invoice for this. Raises OSError."""
    return _status(f"{billing}/invoices?reference={reference}") == 200


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
