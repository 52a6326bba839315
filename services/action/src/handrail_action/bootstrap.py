"""The only place where action's concrete things are made."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any

from handrail.clock import SystemClock
from handrail.contracts import Contracts
from handrail.errors import ConfigError
from handrail.flow import Flow, System
from handrail.recovery import ErrorClass
from handrail.service import Deployment, Plan
from handrail.spec import Spec

from handrail_action.addresses import Forbidden, check_base_url
from handrail_action.answers import Encode
from handrail_action.effects import COMMAND, TABLES, Effects
from handrail_action.shapes import only_known
from handrail_action.worker import ROOM, HttpWorker


def plans(deployment: Deployment) -> list[Plan]:
    """One stage per outside system that a flow calls: `action.<system>`."""
    return [_plan(deployment, name) for name in _called(deployment)]


def _called(deployment: Deployment) -> list[str]:
    flows = deployment.flows
    versions = [flow for name in flows.names() for number in flows.versions(name) if (flow := flows.get(name, number))]
    return sorted({step.system for flow in versions for step in flow.steps if step.system})


def _plan(deployment: Deployment, name: str) -> Plan:
    system = deployment.flows.systems[name].resolved(os.environ)
    try:
        check_base_url(system)
    except Forbidden as error:
        raise ConfigError(f"systems/{name}.yaml: base_url: {error}") from error
    contracts, flows = deployment.contracts, deployment.flows

    def decode(raw: bytes) -> Mapping[str, Any]:
        return contracts.decode(raw)[1]

    spec = Spec(
        name=f"action.{name}",
        inbox=f"action.{name}",
        accepts=frozenset({COMMAND}),
        handler=Effects(system, _flow(deployment), decode, encoder(contracts), random.random),
        partitions=deployment.partitions,
        knows=lambda flow, version: flows.get(flow, version) is not None,
        tables=TABLES,
        batch=ROOM * system.limits.concurrency,
        may_count=frozenset({"calls.good", *(f"calls.{error_class}" for error_class in ErrorClass)}),
    )
    return Plan(spec, worker=lambda: _worker(deployment, system))


def encoder(contracts: Contracts) -> Encode:
    """Gives the encoder of systems' answers: what our contract knows of one, checked. It raises Failure for a broken one."""

    def encode(contract: str, values: Mapping[str, Any]) -> bytes:
        found = contracts[contract]
        known = only_known(found.schema, values)
        contracts.check(found, known)
        return contracts.encode(contract, known)

    return encode


def _worker(deployment: Deployment, system: System) -> HttpWorker:
    return HttpWorker(system, f"action.{system.name}", SystemClock(), deployment.telemetry)


def _flow(deployment: Deployment) -> Any:
    def flow(name: str, version: int) -> Flow:
        found = deployment.flows.get(name, version)
        if found is None:
            raise ConfigError(f"this process does not have {name} v{version}")
        return found

    return flow
