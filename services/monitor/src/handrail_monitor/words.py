"""What each rule means and what to do about it, for the person who is woken up; docs/operations/alerts.md says more."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

WORDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "kafka-away": (
            "Nothing can be seen and probably nothing moves. What was acknowledged is kept; nothing new is taken.",
            "See whether Kafka runs and has disk left. Until this is over monitor can judge nothing else.",
        ),
        "process-silent": (
            "Its work waits in Kafka and nothing is lost. Other stages go on.",
            "`handrail status` and `handrail logs {subject}`: does it run, what did it say last?",
        ),
        "paused": (
            "Events of that version wait in order; nothing is lost, and other partitions go on.",
            "Deploy the flow's version to this service, or take back the one that stamps it (its log: event `paused`).",
        ),
        "restarts": (
            "It crashes or is ended again and again; its work goes on slowly or not at all.",
            "`handrail logs {subject}`: what does it say before it ends? Exit code 2 is a wrong file or setting.",
        ),
        "calls-failing": (
            "Runs that need {subject} wait and are tried again. Nothing is done twice.",
            "See whether {subject} is up and lets us in. When it is well again waiting runs go on by themselves; "
            "what has become a dead letter meanwhile: `handrail dlq list`, then replay.",
        ),
        "runs-failing": (
            "These runs have ended without their result; somebody has to replay them or do them by hand.",
            "`handrail dlq list` shows the reasons, `handrail runs show` one run; "
            "the flow's runbook says what the team does meanwhile.",
        ),
        "oldest-dead-letter": (
            "Somebody waits for the result, and no machine will finish it.",
            "`handrail dlq list`, oldest first: replay what can go well now, discard with a reason what can't.",
        ),
        "misconfigured": (
            "The same failure will meet every run until the setting is changed.",
            "Compare systems/*.yaml and its secrets with what the system asks for; restart the service, then replay.",
        ),
        "silence": (
            "Either nothing happened in the world, or its events do not reach us.",
            "See whether the source publishes to the flow's ingest topic; ask who owns it.",
        ),
        "stuck-runs": (
            "A call has no outcome, or a record waits for its next attempt, for longer than is usual.",
            "`handrail runs list` shows the oldest; `handrail runs show` says what it waits for.",
        ),
        "lag": (
            "What waits is handled late; nothing is lost.",
            "Is the stage slow (a slow system, too little machine) or stopped (`handrail logs`)? "
            "More processes of a stage share its work; of console, see whether the ledger's disk or database answers.",
        ),
        "breaker-open": (
            "{subject} is not called; its work waits and nothing is dropped.",
            "See whether {subject} is up. The breaker closes by itself after calls that go well.",
        ),
        "blocked-keys": (
            "Later events of the same customers or orders wait behind one that fails, to keep their order.",
            "`handrail dlq list` and the stage's log show the failure; when it is gone they follow by themselves.",
        ),
    }
)


def words(rule: str, subject: str) -> tuple[str, str]:
    """What it means, and what to do."""
    means, todo = WORDS[rule]
    return means.format(subject=subject), todo.format(subject=subject)
