"""What happens after a failure: its class, the decision, and the fingerprint that groups it. All pure."""

from handrail.recovery.classes import ErrorClass, FailureInfo
from handrail.recovery.classify import classify, frames
from handrail.recovery.decide import DeadLetter, Decision, Discard, Retry, decide
from handrail.recovery.fingerprint import fingerprint
from handrail.recovery.policy import Backoff, Policy
from handrail.recovery.retry_after import retry_after

__all__ = [
    "Backoff",
    "DeadLetter",
    "Decision",
    "Discard",
    "ErrorClass",
    "FailureInfo",
    "Policy",
    "Retry",
    "classify",
    "decide",
    "fingerprint",
    "frames",
    "retry_after",
]
