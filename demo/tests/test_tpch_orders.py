"""TPC-H tables become events of the contract, to the cent."""

from __future__ import annotations

from pathlib import Path

import pytest
from handrail.contracts import Contracts
from handrail_demo.errors import DemoError
from handrail_demo.orders import CONTRACT, accepted_orders, cents, generated
from hypothesis import given
from hypothesis import strategies as st

CONTRACTS = Path(__file__).parents[2] / "contracts"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generated(tmp_path_factory.mktemp("home"), "0.001")


def test_every_order_is_a_good_event_of_its_contract(tables: Path) -> None:
    contracts = Contracts.load(CONTRACTS)
    events = accepted_orders(tables, 1_500)
    for event in events:
        contract, decoded = contracts.decode(contracts.encode(CONTRACT, event), CONTRACT)
        contracts.check(contract, decoded)
        assert decoded == event
    assert len({event["order_id"] for event in events}) == 1_500
    assert any(event["account_balance_minor"] < 0 for event in events)


def test_tables_that_are_there_are_not_made_again(tables: Path) -> None:
    before = (tables / "orders.csv").stat().st_mtime_ns
    assert generated(tables.parents[2], "0.001") == tables
    assert (tables / "orders.csv").stat().st_mtime_ns == before
    assert [path.name for path in tables.parent.iterdir()] == ["scale-0.001"]


def test_a_table_that_was_lost_is_made_again(tmp_path: Path) -> None:
    folder = generated(tmp_path, "0.001")
    (folder / "orders.csv").unlink()
    assert generated(tmp_path, "0.001") == folder
    assert len(accepted_orders(folder, 10)) == 10


def test_too_few_orders_are_said(tables: Path) -> None:
    with pytest.raises(DemoError, match="has 1500 orders, 1501 are wanted"):
        accepted_orders(tables, 1_501)


def test_a_spoilt_table_is_said(tmp_path: Path) -> None:
    (tmp_path / "customer.csv").write_text("c_custkey,c_name,c_acctbal,c_mktsegment\n")
    (tmp_path / "orders.csv").write_text("o_orderkey,o_custkey,o_totalprice,o_orderdate\n1,7,1.00,1996-01-02\n")
    with pytest.raises(DemoError, match=r"KeyError\('7'\).*delete the folder"):
        accepted_orders(tmp_path, 1)


def test_a_scale_that_makes_no_sense_is_said(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="tpchgen-cli failed"):
        generated(tmp_path, "none")
    assert not (tmp_path / "cache" / "tpch" / "scale-none").exists()


def test_a_home_that_cant_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder is to be")
    with pytest.raises(DemoError, match="set HANDRAIL_HOME"):
        generated(tmp_path)


@given(st.integers(-(10**14), 10**14))
def test_cents_are_exact(minor: int) -> None:
    sign = "-" if minor < 0 else ""
    assert cents(f"{sign}{abs(minor) // 100}.{abs(minor) % 100:02}") == minor


@pytest.mark.parametrize("text", ["1.005", "", "many", "NaN", "Infinity"])
def test_what_is_no_whole_number_of_cents_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an amount|has a part of a cent"):
        cents(text)
