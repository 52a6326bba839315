"""A flow's `retry:` becomes a policy, or an error that says what to write."""

from __future__ import annotations

from typing import Any

import pytest
from handrail.errors import ConfigError
from handrail.recovery import Backoff, ErrorClass, Policy
from handrail.recovery.policy import DAY, DEFAULTS, MINUTE, SECOND


def test_nothing_given_means_the_defaults() -> None:
    assert Policy.from_config(None) == Policy.from_config({}) == Policy()
    assert Policy().backoff(ErrorClass.TRANSIENT) == Backoff(2 * SECOND, 10 * MINUTE, 8, DAY)
    assert Policy().backoff(ErrorClass.BUG).times == 2


@pytest.mark.parametrize("name", ["business", "contract", "poison", "config", "unknown_outcome"])
def test_what_is_never_retried_has_no_attempts(name: str) -> None:
    assert Policy().backoff(ErrorClass(name)).times == 0


def test_a_flow_changes_only_what_it_names() -> None:
    policy = Policy.from_config({"transient": {"from": 500, "times": 3}, "bug": None, "rate_limited": {"within": 9}})
    assert policy.backoff(ErrorClass.TRANSIENT) == Backoff(500, 10 * MINUTE, 3, DAY)
    assert policy.backoff(ErrorClass.BUG) == DEFAULTS[ErrorClass.BUG]
    assert policy.backoff(ErrorClass.RATE_LIMITED).max_age_ms == 9


def test_every_spelling_of_the_words_means_the_same() -> None:
    short = Policy.from_config({"transient": {"from": 1, "to": 2, "within": 3, "times": None}})
    assert short == Policy.from_config({"transient": {"from_ms": 1, "to_ms": 2, "within_ms": 3}})
    assert short == Policy.from_config({"transient": {"first_ms": 1, "cap_ms": 2, "max_age_ms": 3}})


def test_one_end_that_is_given_moves_the_other() -> None:
    assert Policy.from_config({"transient": {"from": DAY}}).backoff(ErrorClass.TRANSIENT).cap_ms == DAY
    assert Policy.from_config({"transient": {"to": 100}}).backoff(ErrorClass.TRANSIENT).first_ms == 100


def test_no_retries_can_be_asked_for() -> None:
    assert Policy.from_config({"transient": {"times": 0}}).backoff(ErrorClass.TRANSIENT).times == 0


def test_delays_double_up_to_the_cap_for_any_attempt() -> None:
    backoff = Backoff(first_ms=10, cap_ms=70, times=9, max_age_ms=None)
    assert [backoff.delay(n) for n in (-1, 1, 2, 3, 4, 5, 10**9)] == [10, 10, 20, 40, 70, 70, 70]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"poison": {"times": 1}}, "'poison' can't be tried again"),
        ({"unknown_outcome": {"times": 1}}, "can't be tried again"),
        ({"flaky": {"times": 1}}, "a flow may set transient, "),
        ({"transient": 3}, "write a mapping such as"),
        ({"transient": {"tries": 3}}, "no such key 'tries'"),
        ({"transient": {"times": -1}}, "retry.transient.times: -1"),
        ({"transient": {"times": True}}, "True is not a whole number"),
        ({"transient": {"from": "2s"}}, "'2s' is not a whole number"),
        ({"transient": {"from": 10, "to": 5}}, r"`to` \(5 ms\) is less than `from` \(10 ms\)"),
        ({"rate_limited": {"times": 3}}, "limit it by `within`"),
        ({"business": {"times": 3}}, "only `then: discard`"),
        ({"bug": {"then": "discard"}}, "a person must see it"),
        ({"transient": {"then": "explode"}}, "write discard or dead-letter"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Policy.from_config(config)
