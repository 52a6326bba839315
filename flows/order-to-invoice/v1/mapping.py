"""What the shop calls an order, billing calls an invoice request. Pure: the same event gives the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def to_invoice_request(event: Mapping[str, Any]) -> dict[str, Any]:
    """The request for the invoice of one revision of an order."""
    return {
        "reference": f"{event['order_id']}/{event['revision']}",
        "customer_id": event["customer_id"],
        "total_minor": event["total_minor"],
        "currency": event["currency"],
    }


def to_order_invoiced(
    event: Mapping[str, Any], request: Mapping[str, Any], responses: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The flow's result. Finished by hand, there is no answer of billing, and so no invoice number."""
    return {
        "order_id": event["order_id"],
        "revision": event["revision"],
        "total_minor": request["total_minor"],
        "currency": request["currency"],
        "invoice_id": responses.get("invoice", {}).get("invoice_id"),
    }
