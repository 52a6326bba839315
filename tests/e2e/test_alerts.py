"""A fault of an outside system reaches people by webhook and by mail, and so does its end; a killed monitor goes on.

Monitor and console tell of each other's silence.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from handrail.testing.otlp import Collector
from handrail.testing.sinks import MailSink, WebhookSink

pytestmark = pytest.mark.kafka
Company = Any
WITHIN_S = 15.0
ALERT = "calls-failing: billing"


class Watched:
    """A deployment whose monitor tells our sinks."""

    def __init__(self, company: Company, webhook: WebhookSink, mails: MailSink) -> None:
        self.company, self.webhook, self.mails = company, webhook, mails

    def chat(self, title: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        return self.webhook.wait(lambda one: one["text"].startswith(title) and ALERT in one["text"], within_s)

    def mail(self, title: str, within_s: float = WITHIN_S) -> Any:
        wanted = f"[handrail] {title}"
        return self.mails.wait(lambda one: one["Subject"].startswith(wanted) and ALERT in one["Subject"], within_s)

    def until(self, holds: Callable[[], bool]) -> None:
        """The ledger follows by itself."""
        until = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < until
            time.sleep(1)

    def heard(self) -> dict[str, Any]:
        """`handrail alerts --json` as soon as console has heard monitor. Each look starts a process."""
        until = time.monotonic() + 90
        while True:
            ended = self.company.handrail("alerts", "--all", "--json")
            if ended.returncode == 0:
                return dict(json.loads(ended.stdout))
            assert time.monotonic() < until, ended.stdout + ended.stderr
            time.sleep(1)

    def told(self, alert: str) -> set[str]:
        """Who was told of it, as far as it is written: only they are not told again by the next monitor."""
        return {name for one in self.heard()["alerts"] if one["alert"] == alert for name in one["told"]}


@pytest.fixture
def watched(company_of: Callable[..., AbstractContextManager[Company]]) -> Iterator[Watched]:
    """A deployment of the test's own; monitor's windows are short enough for it."""
    with WebhookSink() as webhook, MailSink() as mails, Collector() as collector:
        told = {
            "HANDRAIL_MONITOR_WEBHOOK": webhook.url,
            "HANDRAIL_MONITOR_SMTP": mails.address,
            "HANDRAIL_MONITOR_SMTP_TLS": "none",
            "HANDRAIL_MONITOR_MAIL_FROM": "handrail@example.com",
            "HANDRAIL_MONITOR_MAIL_TO": "ops@example.com",
            "HANDRAIL_MONITOR_WINDOW": "10s",
        }
        with company_of(collector, {"monitor": told}) as company:
            yield Watched(company, webhook, mails)


@pytest.mark.timeout(300)
def test_a_fault_of_billing_is_told_within_15_s_and_so_is_its_end(watched: Watched) -> None:
    company = watched.company
    watched.heard()
    good = company.orders(3)
    company.publish(*good)
    company.wait_for("done", *good, within_s=60)
    assert not any(ALERT in one["text"] for one in watched.webhook.got())  # billing is well

    company.sandbox.order_faults("billing", {"kind": "503"})
    began = time.monotonic()
    away = company.orders(20)
    company.publish(*away)
    chat = watched.chat("CRITICAL", WITHIN_S)
    mail = watched.mail("CRITICAL", max(0.1, began + WITHIN_S - time.monotonic()))
    for text in (chat["attachments"][0]["text"], mail.get_content()):
        assert "What happened: " in text
        assert "What to do: " in text
        assert "billing-ops@example.com" in text
        assert not any(order["order_id"] in text for order in away)
    watched.until(lambda: {"webhook", "mail"} <= watched.told("calls-failing/billing"))

    company.stack.wait_restarted("monitor", company.stack.kill9("monitor"))
    company.sandbox.mend("billing")
    more = company.orders(3)
    company.publish(*more)
    company.wait_for("done", *more, within_s=60)
    watched.chat("over after", within_s=60)
    watched.mail("over after", within_s=60)
    firing = [one for one in watched.webhook.got() if one["text"].startswith("CRITICAL") and ALERT in one["text"]]
    assert len(firing) == 1  # also the monitor that was started meanwhile told it nobody twice


@pytest.mark.timeout(300)
def test_a_console_that_is_stopped_is_told_and_a_monitor_that_is_stopped_is_noticed(watched: Watched) -> None:
    watched.heard()
    watched.company.stack.stop_service("console")
    silent = "process-silent: console"
    chat = watched.webhook.wait(lambda one: one["text"].startswith("CRITICAL") and silent in one["text"], 40)
    assert "What happened: console has said nothing " in chat["attachments"][0]["text"]
    watched.company.stack.start_service("console")
    watched.webhook.wait(lambda one: one["text"].startswith("over after") and silent in one["text"], 40)

    watched.company.stack.stop_service("monitor")
    until = time.monotonic() + 60
    while (ended := watched.company.handrail("alerts")).returncode == 0:
        assert time.monotonic() < until, ended.stdout
    assert "Warning: monitor silent since" in ended.stdout
    assert watched.company.handrail("status").returncode == 1
