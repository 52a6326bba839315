"""TPC-H orders and customers as events of the contract orders/order-accepted.v1."""

from __future__ import annotations

import csv
import itertools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from handrail_demo.errors import DemoError

CONTRACT = "orders/order-accepted.v1"
CURRENCY = "EUR"
SCALE = "0.01"
"""15,000 orders of 1,500 customers (TPC-H specification 4.2.5)."""

_TABLES = ("orders", "customer")


def generated(home: Path, scale: str = SCALE) -> Path:
    """The folder with orders.csv and customer.csv of this scale, below `home`; made by tpchgen-cli when it is not there.

    The data are the same on every machine. Raises DemoError.
    """
    folder = home / "cache" / "tpch" / f"scale-{scale}"
    if all((folder / f"{table}.csv").is_file() for table in _TABLES):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _generate(Path(made), scale)
            folder.mkdir(exist_ok=True)
            for table in _TABLES:
                (Path(made) / f"{table}.csv").replace(folder / f"{table}.csv")
    except OSError as error:
        raise DemoError(
            f"the TPC-H tables can't be kept in {folder}: {error}; free the folder or set HANDRAIL_HOME"
        ) from error
    return folder


def _generate(folder: Path, scale: str) -> None:
    beside = Path(sys.executable).parent / "tpchgen-cli"
    program = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    if program is None:
        raise DemoError(f"tpchgen-cli is not in {beside.parent} nor on the PATH; run `make setup`")
    command = [program, "csv", "-q", "-s", scale, f"--tables={','.join(_TABLES)}", f"--output-dir={folder}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    missing = [table for table in _TABLES if not (folder / f"{table}.csv").is_file()]
    if ended.returncode or missing:
        told = ended.stderr.strip() or f"it made no {', '.join(missing)}"
        raise DemoError(f"tpchgen-cli failed ({ended.returncode}): {told}; the command was {' '.join(command)}")


def accepted_orders(folder: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` orders with their customers, as events of revision 1.

    Raises DemoError when there are fewer, or a file is not as TPC-H has it.
    """
    try:
        customers = {row["c_custkey"]: row for row in _rows(folder / "customer.csv")}
        events = [
            _event(order, customers[order["o_custkey"]])
            for order in itertools.islice(_rows(folder / "orders.csv"), count)
        ]
    except (KeyError, ValueError, OSError) as error:
        raise DemoError(f"the TPC-H tables in {folder} can't be used: {error!r}; delete the folder") from error
    if len(events) < count:
        raise DemoError(f"{folder} has {len(events)} orders, {count} are wanted; ask for fewer or raise the scale")
    return events


def cents(amount: str) -> int:
    """A decimal amount in minor units, exactly. Raises ValueError when it has a part of a cent or is no number."""
    try:
        minor = Decimal(amount).scaleb(2)
        exact = int(minor)
    except (InvalidOperation, OverflowError, ValueError) as error:
        raise ValueError(f"{amount!r} is not an amount") from error
    if minor != exact:
        raise ValueError(f"{amount!r} has a part of a cent")
    return exact


def _event(order: dict[str, str], customer: dict[str, str]) -> dict[str, Any]:
    return {
        "order_id": order["o_orderkey"],
        "revision": 1,
        "customer_id": customer["c_custkey"],
        "customer_name": customer["c_name"],
        "segment": customer["c_mktsegment"],
        "account_balance_minor": cents(customer["c_acctbal"]),
        "total_minor": cents(order["o_totalprice"]),
        "currency": CURRENCY,
        "ordered_on": order["o_orderdate"],
    }


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)
