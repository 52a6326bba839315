"""How many transitions a second the ledger takes: decoded, projected and committed in batches, with their positions.

    .venv/bin/python benchmarks/ledger.py [--runs 20000] [--batch 10000] [--ledger postgresql+psycopg://…]

Runs of four transitions each, as order-to-invoice makes them, in an order in which many runs are under way at once. The
records are made before the clock starts, so Kafka is not in the figure. CPU is this process's own; where the machine has
other work, the rate by CPU time says what a core of its own would do. Without --ledger, a SQLite file in a temporary folder.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from handrail.contracts import Contracts
from handrail.identity import run_id
from handrail_console.ledger import BATCH, Ledger
from handrail_console.projection import PROJECTIONS, Record
from rich.console import Console
from rich.progress import track

PROJECT = Path(__file__).parents[1]
START = 1_767_225_600_000
STEPS = (("prepared", "prepared"), ("decided", "decision"), ("acting", "next"), ("done", "outcome"))
PARTITIONS, UNDER_WAY = 4, 2_000
NOTHING = dict.fromkeys(("amount", "unit", "step", "since", "within_ms"))


def main() -> None:
    """Make the records, apply them, print the figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=20_000)
    arguments.add_argument("--batch", type=int, default=BATCH)
    arguments.add_argument("--ledger")
    given = arguments.parse_args()
    contracts = Contracts.load(PROJECT / "contracts")
    records = list(
        track(history(contracts, given.runs), "making records", total=given.runs * 4, console=Console(stderr=True))
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(given.ledger or Path(folder) / "ledger.sqlite", contracts) as ledger,
    ):
        gc.collect()
        gc.freeze()  # console does not have 80,000 records at hand for the collector to walk over
        kind = ledger.place.url.get_backend_name()
        load = os.getloadavg()[0]
        began, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(records), given.batch):
            ledger.apply(records[start : start + given.batch])
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    Console().print(
        f"{kind}: {len(records):,} transitions in batches of {given.batch:,}: {len(records) / took:,.0f}/s; "
        f"{1e6 * cpu / len(records):.0f} us of CPU each, {len(records) / cpu:,.0f}/s by CPU time; "
        f"load {load:.1f} on {os.cpu_count()} cores",
        soft_wrap=True,
        highlight=False,
    )


def history(contracts: Contracts, runs: int) -> Iterator[Record]:
    """Records of `runs`, in the order in which they would happen with UNDER_WAY of them at once."""
    dice, contract = random.Random(0), list(PROJECTIONS["runs"].contracts)[-1]
    offsets = [0] * PARTITIONS
    under_way: list[tuple[int, int]] = []
    begun = 0
    while begun < runs or under_way:
        while begun < runs and len(under_way) < UNDER_WAY:
            under_way.append((begun, 0))
            begun += 1
        place = dice.randrange(len(under_way))
        number, step = under_way[place]
        under_way[place] = under_way[-1] if step + 1 == len(STEPS) else (number, step + 1)
        if step + 1 == len(STEPS):
            under_way.pop()
        partition = number % PARTITIONS
        body = transition(number, step)
        yield Record("runs", partition, offsets[partition], body["at"], b"key", contracts.encode(contract, body))
        offsets[partition] += 1


def transition(number: int, step: int) -> dict[str, object]:
    """One step of a run, as decision tells of it."""
    state, event = STEPS[step]
    dedupe = {"order_id": str(number), "revision": "1"}
    at = START + number * 10 + step * 40
    outcomes = [
        {**NOTHING, "name": "time-to-invoice", "step": "invoice", "since": at, "within_ms": 60_000},
        {**NOTHING, "name": "value-at-risk", "amount": 17_366_547.0, "unit": "USD"},
    ]
    return {
        "run": run_id("order-to-invoice", dedupe),
        "flow": "order-to-invoice",
        "version": 1,
        "route": str(number),
        "sequence": step + 1,
        "previous": STEPS[step - 1][0] if step else None,
        "state": state,
        "event": event,
        "step": "invoice" if step > 1 else None,
        "failure_class": None,
        "reason": "invoice verified" if step == 3 else None,
        "attempts": 1 if step == 3 else 0,
        "actor": None,
        "dedupe": dedupe,
        "segments": {} if step else {"segment": ("BUILDING", "AUTOMOBILE", "MACHINERY")[number % 3]},
        "outcomes": [] if step else outcomes,
        "task": None,
        "trace": f"{number:032x}",
        "first_failure_at": None,
        "at": at,
    }


if __name__ == "__main__":
    main()
