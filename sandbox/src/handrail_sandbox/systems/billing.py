"""Billing: makes an invoice for each order to make one, twice if told twice; it can be asked by our reference."""

from __future__ import annotations

import sqlite3
from typing import Annotated, Any

from pydantic import BaseModel, Field, StrictInt

from handrail_sandbox.operations import Asked, Doing, Operation
from handrail_sandbox.replies import Effect, Reply, problem

SYSTEM = "billing"


class NewInvoice(BaseModel):
    """What billing needs for an invoice. `total_minor` is in minor units of `currency` (ISO 4217)."""

    reference: str = Field(min_length=1, max_length=200)
    customer_id: str = Field(min_length=1, max_length=200)
    total_minor: Annotated[StrictInt, Field(gt=0, lt=2**63)]
    currency: str = Field(pattern=r"^[A-Z]{3}$")


class InvoiceQuery(BaseModel):
    """How an invoice is looked for."""

    reference: str = Field(min_length=1)


def _id_of(call: int) -> str:
    return f"INV-{call:08d}"


def _invoice(row: sqlite3.Row) -> dict[str, Any]:
    names = ("invoice_id", "reference", "customer_id", "total_minor", "currency")
    invoice = {name: row[name] for name in names}
    return invoice if row["voided_at"] is None else {**invoice, "status": "void"}


def _create(asked: Asked, doing: Doing) -> Reply:
    new: NewInvoice = asked.model
    doing.books.execute(
        "INSERT INTO invoices (invoice_id, reference, customer_id, total_minor, currency) VALUES (?,?,?,?,?)",
        (_id_of(doing.call), new.reference, new.customer_id, new.total_minor, new.currency),
    )
    effect = Effect("invoice", new.reference, new.total_minor, new.currency)
    return Reply(201, {"invoice_id": _id_of(doing.call), **new.model_dump()}, effects=(effect,))


def _pretend_to_create(asked: Asked, call: int) -> Reply:
    new: NewInvoice = asked.model
    return Reply(201, {"invoice_id": _id_of(call), **new.model_dump()})


def _find(asked: Asked, doing: Doing) -> Reply:
    query: InvoiceQuery = asked.model
    row = doing.books.execute(
        "SELECT * FROM invoices WHERE reference = ? ORDER BY seq LIMIT 1", (query.reference,)
    ).fetchone()
    return Reply(200, _invoice(row)) if row else problem(404, f"there is no invoice with reference {query.reference!r}")


def _by_id(asked: Asked, doing: Doing) -> sqlite3.Row | None:
    row: sqlite3.Row | None = doing.books.execute(
        "SELECT * FROM invoices WHERE invoice_id = ?", (asked.path["id"],)
    ).fetchone()
    return row


def _no_such(asked: Asked) -> Reply:
    return problem(404, f"there is no invoice {asked.path['id']!r}")


def _get(asked: Asked, doing: Doing) -> Reply:
    row = _by_id(asked, doing)
    return Reply(200, _invoice(row)) if row else _no_such(asked)


def _void(asked: Asked, doing: Doing) -> Reply:
    row = _by_id(asked, doing)
    if row is None:
        return _no_such(asked)
    void = {**_invoice(row), "status": "void"}
    if row["voided_at"] is not None:
        return Reply(200, void)
    doing.books.execute("UPDATE invoices SET voided_at = ? WHERE seq = ?", (doing.now, row["seq"]))
    effect = Effect("void", row["reference"], row["total_minor"], row["currency"])
    return Reply(200, void, effects=(effect,))


def _pretend_to_void(asked: Asked, _call: int) -> Reply:
    return Reply(200, {"invoice_id": asked.path["id"], "status": "void"})


OPERATIONS = (
    Operation(
        SYSTEM,
        "create-invoice",
        "POST",
        "/billing/invoices",
        NewInvoice,
        lambda asked: asked.model.reference,
        _create,
        _pretend_to_create,
    ),
    Operation(
        SYSTEM, "find-invoice", "GET", "/billing/invoices", InvoiceQuery, lambda asked: asked.model.reference, _find
    ),
    Operation(SYSTEM, "get-invoice", "GET", "/billing/invoices/{id}", None, lambda asked: asked.path["id"], _get),
    Operation(
        SYSTEM,
        "void-invoice",
        "POST",
        "/billing/invoices/{id}/void",
        None,
        lambda asked: asked.path["id"],
        _void,
        _pretend_to_void,
    ),
)
