"""The outside systems of the sandbox."""

from __future__ import annotations

from handrail_sandbox.operations import Operation
from handrail_sandbox.systems import billing, crm, shop

OPERATIONS: tuple[Operation, ...] = (*shop.OPERATIONS, *billing.OPERATIONS, *crm.OPERATIONS)

SYSTEMS: tuple[str, ...] = ("shop", "billing", "crm")
