"""`handrail contracts`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from handrail.cli.contracts import app
from handrail.errors import ContractFileError
from typer.testing import CliRunner, Result

REPOSITORY = Path(__file__).parents[2] / "contracts"
ACCEPTED = "orders/order-accepted.v1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of this repository's contracts."""
    return Path(shutil.copytree(REPOSITORY, tmp_path / "contracts"))


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"HANDRAIL_CONTRACTS": str(folder), "COLUMNS": "200"})


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_check_is_content_with_this_repository(folder: Path) -> None:
    result = run(folder, "check")
    assert (result.exit_code, "are in order" in result.stdout) == (0, True), result.stderr


def test_check_tells_every_problem_at_once(folder: Path) -> None:
    rewrite(folder / f"{ACCEPTED}.avsc", "value >= 1", "value >= 2")
    (folder / "samples/orders/order-invoiced.v1.typical.pass.json").unlink()
    (folder / "samples/orders/order-invoiced.v1.by-hand.pass.json").unlink()
    wider = json.loads((folder / f"{ACCEPTED}.avsc").read_text()) | {"namespace": "orders.v2"}
    wider["fields"] = [field for field in wider["fields"] if field["name"] != "order_id"]
    (folder / "orders/order-accepted.v2.avsc").write_text(json.dumps(wider))
    result = run(folder, "check")
    assert result.exit_code == 1
    for text in (
        "order-accepted.v1.avsc: its rules or defaults differ from contracts.lock",
        "order-accepted.v2.avsc: is not in contracts.lock",
        "orders/order-accepted.v2: order_id is critical in v1 and is gone",
        "orders/order-accepted.v2: has no sample",
        "orders/order-invoiced.v1: has no sample",
        "order-accepted.v1.typical.pass.json: must be taken, but is refused",
    ):
        assert text in result.stderr


def test_a_file_that_is_wrong_is_an_error_of_its_own(folder: Path) -> None:
    rewrite(folder / f"{ACCEPTED}.avsc", '"critical"', '"critcal"')
    result = run(folder, "check")
    assert isinstance(result.exception, ContractFileError)
    assert 'did you mean "critical"?' in str(result.exception)


def test_lock_says_what_changed_and_then_nothing(folder: Path) -> None:
    rewrite(folder / f"{ACCEPTED}.avsc", "value >= 1", "value >= 0")
    assert f"{ACCEPTED}: rules or defaults changed" in run(folder, "lock").stdout
    assert run(folder, "lock").stdout.endswith("0 changed\n")


def test_lock_refuses_a_released_schema_that_changed_unless_forced(folder: Path) -> None:
    rewrite(folder / f"{ACCEPTED}.avsc", '"name": "segment"', '"name": "market"')
    before = (folder / "contracts.lock").read_bytes()
    assert "a released schema never changes" in str(run(folder, "lock").exception)
    assert (folder / "contracts.lock").read_bytes() == before
    assert f"{ACCEPTED}: schema changed" in run(folder, "lock", "--force").stdout


def test_lock_releases_nothing_whose_rules_do_not_compile(folder: Path) -> None:
    rewrite(folder / f"{ACCEPTED}.avsc", "value >= 1", "value >= 'x'")
    result = run(folder, "lock")
    assert "order-accepted.v1.avsc: field revision: valid" in str(result.exception)


def test_list_names_every_contract(folder: Path) -> None:
    table = run(folder, "list").stdout
    contracts = json.loads(run(folder, "list", "--json").stdout)
    assert {contract["name"] for contract in contracts} >= {ACCEPTED, "handrail/dead-letter.v1"}
    assert all(contract["name"] in table and str(contract["id"]) in table for contract in contracts)
    order_id = next(contract for contract in contracts if contract["name"] == ACCEPTED)["fields"][0]
    assert (order_id["name"], order_id["critical"], order_id["missing"]) == ("order_id", True, "reject")


def test_every_command_shows_an_example(folder: Path) -> None:
    for command in ("list", "lock", "check"):
        assert "Example: handrail contracts" in run(folder, command, "--help").stdout
