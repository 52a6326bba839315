"""How systems are read, how paths are filled, and what statuses mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from handrail.contracts import Contracts
from handrail.errors import ConfigError, Failure
from handrail.flow import Flows, Operation, System
from handrail.flow.duration import format_duration, parse_duration
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def billing() -> System:
    return Flows.load(ROOT / "flows", ROOT / "systems", Contracts.load(ROOT / "contracts")).systems["billing"]


def billing_with(**changes: Any) -> System:
    data = yaml.safe_load((ROOT / "systems" / "billing.yaml").read_text())
    return System.model_validate(data | changes)


def operation(path: str, method: str = "GET") -> Operation:
    return Operation.model_validate({"method": method, "path": path})


def test_billing_is_as_the_sandbox_has_it(billing: System) -> None:
    create, get = billing.operations["create-invoice"], billing.operations["get-invoice"]
    assert (create.method, create.safe, create.request) == ("POST", False, "billing/invoice-request.v1")
    assert (get.method, get.safe, get.absent) == ("GET", True, {404})
    assert (billing.settle_ms, billing.deadlines.connect_ms, billing.deadlines.total_ms) == (300, 1_000, 2_000)
    assert (billing.idempotency, billing.conclusive, billing.limits.concurrency) == ("ignored", True, 32)
    assert billing.allow.loopback


@pytest.mark.parametrize(
    ("status", "of_a_call", "of_a_question"),
    [
        (200, None, None),
        (201, None, None),
        (204, None, None),
        (301, "config", "config"),
        (400, "business", "business"),
        (401, "config", "config"),
        (403, "config", "config"),
        (404, "business", "business"),
        (408, "unknown_outcome", "transient"),
        (409, "business", "business"),
        (418, "business", "business"),
        (422, "business", "business"),
        (429, "rate_limited", "rate_limited"),
        (500, "unknown_outcome", "transient"),
        (502, "unknown_outcome", "transient"),
        (503, "transient", "transient"),
        (504, "unknown_outcome", "transient"),
        (599, "unknown_outcome", "transient"),
        (101, "unknown_outcome", "transient"),
    ],
)
def test_what_a_status_means(billing: System, status: int, of_a_call: str | None, of_a_question: str | None) -> None:
    assert billing.classify(status) == of_a_call
    assert billing.classify(status, safe=True) == of_a_question


def test_a_system_maps_statuses_its_own_way_and_the_most_specific_counts() -> None:
    system = billing_with(errors={"4xx": "transient", 409: "config"})
    assert system.classify(409) == "config"
    assert system.classify(418) == "transient"
    assert system.classify(429) == "rate_limited"
    assert system.classify(500) == "unknown_outcome"


@given(value=st.text(min_size=1).filter(lambda text: text not in (".", "..")))
def test_no_value_can_change_where_a_call_goes(value: str) -> None:
    path = operation("/orders/{event.id}/lines?by={request.name}").path({"name": value}, {"id": value})
    parts = urlsplit("http://host" + path)
    assert parts.hostname == "host"
    assert len(parts.path.split("/")) == 4
    assert unquote(parts.path.split("/")[2]) == value
    assert unquote(parts.query.removeprefix("by=")) == value
    assert parts.fragment == ""


@pytest.mark.parametrize("value", [None, "", ".", "..", 1.5, {"a": 1}, ["a"], b"a", "\ud800"])
def test_what_is_not_plain_can_not_be_put_into_a_path(value: object) -> None:
    with pytest.raises(Failure, match="can't be put into a path") as caught:
        operation("/orders/{event.id}").path({}, {"id": value})
    assert (caught.value.error_class, caught.value.field) == ("contract", "id")


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (True, "true"), (False, "false")])
def test_plain_values_are_written_as_json_has_them(value: object, text: str) -> None:
    assert operation("/o/{event.id}").path({}, {"id": value}) == f"/o/{text}"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"base_url": "ftp://host"}, "is not a base URL"),
        ({"base_url": "https://host/?a=1"}, "is not a base URL"),
        ({"base_url": "https://user:pw@host/"}, "is not a base URL"),
        ({"base_url": "${env:HOST"}, "reference that is not whole"),
        ({"auth": {"header": {"name": "Authorization", "value": "Bearer abc"}}}, "a secret stands in the file"),
        ({"auth": {}}, "either `header` or `basic`"),
        ({"errors": {"teapot": "business"}}, "is not a status"),
        ({"errors": {"418": "poison"}}, "Input should be"),
        ({"operations": {}}, "at least 1"),
        ({"operations": {"a": {"method": "GET", "path": "orders"}}}, "is not a path below the base URL"),
        ({"operations": {"a": {"method": "GET", "path": "//host"}}}, "is not a path below the base URL"),
        ({"operations": {"a": {"method": "GET", "path": "/{id}"}}}, "can't be filled"),
        ({"operations": {"a": {"method": "GET", "path": "/{request.id!r}"}}}, "formats a value"),
        ({"operations": {"a": {"method": "GET", "path": "/{request.id"}}}, "expected '}'"),
        ({"operations": {"a": {"method": "POST", "path": "/a", "absent": [404]}}}, "is for questions"),
        ({"settle": "300"}, "not a length of time"),
        ({"limits": {"concurrency": 0}}, "greater than or equal to 1"),
    ],
)
def test_a_system_that_can_not_be_called_safely_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        billing_with(**changes)
    assert what in str(caught.value)


def test_addresses_and_secrets_come_from_the_environment() -> None:
    auth = {"header": {"name": "Authorization", "value": "Bearer ${env:BILLING_TOKEN}"}}
    system = billing_with(auth=auth)
    env = {"HANDRAIL_SANDBOX_URL": "http://sandbox:1/", "BILLING_TOKEN": "s3cret"}
    resolved = system.resolved(env)
    assert resolved.base_url == "http://sandbox:1/billing"
    assert resolved.auth is not None
    assert resolved.auth.header is not None
    assert resolved.auth.header.value == "Bearer s3cret"
    assert "s3cret" not in repr(system)
    assert resolved.classify(503) == "transient"
    with pytest.raises(ConfigError, match="BILLING_TOKEN is not set"):
        system.resolved({})


def test_an_address_may_have_a_default(billing: System) -> None:
    assert billing.resolved({}).base_url == "http://127.0.0.1:18080/billing"
    assert billing.resolved({"HANDRAIL_SANDBOX_URL": ""}).base_url == "http://127.0.0.1:18080/billing"


@pytest.mark.parametrize("url", ["sandbox", "file:///etc", "http://", "http://host/?a=1", "http://u:p@host"])
def test_an_address_from_the_environment_is_checked_too(billing: System, url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        billing.resolved({"HANDRAIL_SANDBOX_URL": url})


def test_user_and_password_come_from_the_environment_too() -> None:
    auth = {"basic": {"user": "${env:U:-handrail}", "password": "${env:P}"}}
    resolved = billing_with(auth=auth).resolved({"P": "pw"}).auth
    assert resolved is not None
    assert resolved.basic is not None
    assert (resolved.basic.user, resolved.basic.password) == ("handrail", "pw")


@pytest.mark.parametrize(
    ("text", "ms"), [("300ms", 300), ("2s", 2_000), ("10m", 600_000), ("4h", 14_400_000), ("90d", 7_776_000_000)]
)
def test_lengths_of_time_are_read_as_written(text: str, ms: int) -> None:
    assert parse_duration(text) == ms
    assert format_duration(ms) == text


@given(ms=st.integers(0, 10**9 - 1))
def test_every_length_of_time_can_be_written(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1.5s", "1 s", "1S", "1h30m", 5, None, "1" * 400 + "s"])
def test_other_lengths_of_time_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a length of time"):
        parse_duration(text)
