"""The only place where transform's concrete things are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from handrail.errors import ConfigError
from handrail.flow import Flow
from handrail.service import Deployment, Plan
from handrail.spec import Spec

from handrail_transform.handler import Transform


def plans(deployment: Deployment) -> list[Plan]:
    """One stage per flow: `<flow>.transform`."""
    return [Plan(_spec(deployment, name)) for name in deployment.flows.names()]


def _spec(deployment: Deployment, name: str) -> Spec:
    flows, contracts = deployment.flows, deployment.contracts

    def flow(version: int) -> Flow:
        found = flows.get(name, version)
        if found is None:
            raise ConfigError(f"this process does not have {name} v{version}")
        return found

    def mapping(version: int) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
        return flow(version).mapping.transform

    def encode(version: int, request: Mapping[str, Any]) -> bytes:
        return contracts.encode(flow(version).request_contract, request)

    return Spec(
        name=f"{name}.transform",
        inbox=f"{name}.transform",
        accepts=frozenset(flow(version).trigger.contract for version in flows.versions(name)),
        handler=Transform(name, mapping, encode),
        partitions=deployment.partitions,
        knows=lambda asked, version: asked != name or flows.get(name, version) is not None,
        policy=flows.newest(name).policy,
        ordering=flows.newest(name).definition.ordering,
    )
