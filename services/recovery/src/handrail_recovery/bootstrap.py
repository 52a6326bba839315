"""The only place where recovery's concrete things are made."""

from __future__ import annotations

from handrail.contracts import Contracts
from handrail.recovery.letter import CONTRACT as DEAD_LETTER
from handrail.recovery.letter import LETTER_BYTES
from handrail.service import Deployment, Plan
from handrail.spec import Spec

from handrail_recovery.commands import OPERATOR_COMMANDS, CarryOut
from handrail_recovery.letters import LETTER_ORDERS, TABLES, keep

QUARANTINE = "dead-letters.quarantine"


def plans(deployment: Deployment) -> list[Plan]:
    """Two stages: operators' orders, and the letters that they are about."""
    commands = Spec(
        name="recovery.commands",
        inbox="recovery.commands",
        accepts=OPERATOR_COMMANDS,
        handler=CarryOut(lambda flow, version: deployment.flows.get(flow, version) is not None),
        partitions=deployment.partitions,
        knows=lambda _flow, _version: True,
        ordering="none",
    )
    letters = Spec(
        name="recovery.letters",
        inbox="dead-letters",
        accepts=frozenset({DEAD_LETTER, *LETTER_ORDERS}),
        handler=keep,
        partitions=deployment.partitions,
        knows=lambda _flow, _version: True,
        tables=TABLES,
        ordering="none",
        dead_letters=QUARANTINE,  # a letter that can't be read must not become a letter about a letter
    )
    large = Contracts.load(deployment.settings.contracts, max_bytes=LETTER_BYTES)
    return [Plan(commands), Plan(letters, contracts=large)]
