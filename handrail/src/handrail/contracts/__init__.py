"""Contracts: what messages look like, which fields matter, and the codec between bytes and values.

contracts = Contracts.load(Path("contracts"))
data = contracts.encode("orders/order-accepted.v1", {...})
contract, value = contracts.decode(data)
contracts.check(contract, value)
"""

from handrail.contracts.codec import MAX_BYTES
from handrail.contracts.collection import Contracts
from handrail.contracts.model import Contract, Field, normalised_name

__all__ = ["MAX_BYTES", "Contract", "Contracts", "Field", "normalised_name"]
