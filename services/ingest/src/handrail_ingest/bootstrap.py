"""The only place where ingest's concrete things are made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handrail.kafka.provision import source_topic
from handrail.service import Deployment, Plan
from handrail.spec import Spec

from handrail_ingest.handler import Ingest


def plans(deployment: Deployment) -> list[Plan]:
    """One stage per flow and source topic: `<flow>.ingest.<source>`."""
    return [Plan(_spec(deployment, name)) for name in deployment.flows.names()]


def _spec(deployment: Deployment, name: str) -> Spec:
    flow = deployment.flows.newest(name)
    contracts = deployment.contracts
    source = source_topic(flow.trigger.contract)

    def check(contract: str, body: Mapping[str, Any]) -> None:
        contracts.check(contracts[contract], body)

    return Spec(
        name=f"{name}.{source}",
        inbox=source,
        accepts=frozenset({flow.trigger.contract}),
        handler=Ingest(name, flow.version, flow.trigger.key, tuple(flow.trigger.dedupe), check),
        partitions=deployment.partitions,
        knows=lambda _flow, _version: True,
        policy=flow.policy,
        ordering="none",
        public=True,
    )
