"""The mapping and the rules of order-to-invoice v1, by example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from handrail.contracts import Contracts
from handrail.flow import Flow, Flows

ROOT = Path(__file__).parents[4]
ORDER = {
    "order_id": "4711",
    "revision": 2,
    "customer_id": "370",
    "customer_name": "Customer#000000370",
    "segment": "BUILDING",
    "account_balance_minor": 71_156,
    "total_minor": 17_279_949,
    "currency": "EUR",
    "ordered_on": "1996-01-02",
}


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return Contracts.load(ROOT / "contracts")


@pytest.fixture(scope="module")
def flow(contracts: Contracts) -> Flow:
    found = Flows.load(ROOT / "flows", ROOT / "systems", contracts).get("order-to-invoice", 1)
    assert found is not None
    return found


def test_the_reference_names_the_order_and_its_revision(flow: Flow) -> None:
    assert flow.mapping.transform(ORDER) == {
        "reference": "4711/2",
        "customer_id": "370",
        "total_minor": 17_279_949,
        "currency": "EUR",
    }


def test_the_request_keeps_its_contract(flow: Flow, contracts: Contracts) -> None:
    request = flow.mapping.transform(ORDER)
    contracts.check(contracts[flow.request_contract], request)
    _, again = contracts.decode(contracts.encode(flow.request_contract, request), flow.request_contract)
    assert again == request


@pytest.mark.parametrize(
    ("responses", "invoice"),
    [({"invoice": {"invoice_id": "I-1"}}, "I-1"), ({}, None)],
    ids=["made by billing", "finished by hand"],
)
def test_the_result_keeps_its_contract(
    flow: Flow, contracts: Contracts, responses: dict[str, Any], invoice: str | None
) -> None:
    result = flow.mapping.done(ORDER, flow.mapping.transform(ORDER), responses)
    assert result is not None
    assert result["invoice_id"] == invoice
    contracts.check(contracts["orders/order-invoiced.v1"], result)
    contracts.encode("orders/order-invoiced.v1", result)


def test_revisions_of_an_order_are_runs_of_their_own_on_one_route(flow: Flow) -> None:
    later = {**ORDER, "revision": 3}
    assert flow.run_id(ORDER) != flow.run_id(later)
    assert flow.run_id(ORDER) == flow.run_id({**ORDER, "segment": "MACHINERY"})
    assert flow.route(ORDER) == flow.route(later) == "4711"


@pytest.mark.parametrize(
    ("balance", "total", "row", "route"),
    [
        (71_156, 17_279_949, "otherwise", "accept"),
        (-50_000, 20_000_001, "otherwise", "accept"),
        (-50_001, 20_000_000, "otherwise", "accept"),
        (-50_001, 20_000_001, "owes-much-orders-large", "reject"),
        (-50_001, 50_000_000, "owes-much-orders-large", "reject"),
        (-50_000, 34_000_000, "otherwise", "accept"),
        (999_999, 34_000_001, "very-large", "review"),
    ],
)
def test_credit_rules(flow: Flow, balance: int, total: int, row: str, route: str) -> None:
    order = {**ORDER, "account_balance_minor": balance, "total_minor": total}
    decision = flow.decide(order, flow.mapping.transform(order))
    assert decision is not None
    assert (decision.row, decision.route) == (row, route)


@pytest.mark.parametrize(("billed", "seen"), [(17_279_949, True), (17_279_948, False)])
def test_an_invoice_is_verified_by_its_sum(flow: Flow, billed: int, seen: bool) -> None:
    request = flow.mapping.transform(ORDER)
    response = {**request, "invoice_id": "I-1", "total_minor": billed}
    assert flow.verified("invoice", ORDER, request, response) is seen


def test_billing_is_asked_by_the_quoted_reference(flow: Flow) -> None:
    question = flow.question(flow.step("invoice"))
    assert question is not None
    assert question[1].path(flow.mapping.transform(ORDER), ORDER) == "/invoices?reference=4711%2F2"
