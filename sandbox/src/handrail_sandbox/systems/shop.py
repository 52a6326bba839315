"""The shop: takes orders under numbers that the customer's side gives, each once."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StrictInt

from handrail_sandbox.operations import Asked, Doing, Operation
from handrail_sandbox.replies import Effect, Reply, problem

SYSTEM = "shop"


class Order(BaseModel):
    """An order. `total_minor` is in minor units of `currency` (ISO 4217)."""

    order_id: str = Field(min_length=1, max_length=64)
    customer_id: str = Field(min_length=1, max_length=200)
    total_minor: Annotated[StrictInt, Field(gt=0, lt=2**63)]
    currency: str = Field(pattern=r"^[A-Z]{3}$")


def _create(asked: Asked, doing: Doing) -> Reply:
    order: Order = asked.model
    if doing.books.execute("SELECT 1 FROM orders WHERE order_id = ?", (order.order_id,)).fetchone():
        return problem(409, f"there is an order {order.order_id!r} already")
    doing.books.execute(
        "INSERT INTO orders VALUES (?,?,?,?)", (order.order_id, order.customer_id, order.total_minor, order.currency)
    )
    effect = Effect("order", order.order_id, order.total_minor, order.currency)
    return Reply(201, order.model_dump(), effects=(effect,))


def _pretend_to_create(asked: Asked, _call: int) -> Reply:
    return Reply(201, asked.model.model_dump())


def _get(asked: Asked, doing: Doing) -> Reply:
    row = doing.books.execute("SELECT * FROM orders WHERE order_id = ?", (asked.path["id"],)).fetchone()
    return Reply(200, dict(row)) if row else problem(404, f"there is no order {asked.path['id']!r}")


OPERATIONS = (
    Operation(
        SYSTEM,
        "create-order",
        "POST",
        "/shop/orders",
        Order,
        lambda asked: asked.model.order_id,
        _create,
        _pretend_to_create,
    ),
    Operation(SYSTEM, "get-order", "GET", "/shop/orders/{id}", None, lambda asked: asked.path["id"], _get),
)
