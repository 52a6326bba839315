"""What a person reads: one alert as a line, as a mail, as a message to a chat. Pure."""

from __future__ import annotations

from email.message import EmailMessage
from hashlib import blake2b
from typing import Any

from handrail_monitor.alerts import RESOLVED, Alert
from handrail_monitor.times import span

_COLOURS = {"CRITICAL": "#c0392b", "WARNING": "#e6a23c"}
_OVER = "#2e8b57"


def title(alert: Alert) -> str:
    """`CRITICAL calls-failing: billing`, `over after 3 min: calls-failing: billing`."""
    head = f"over after {span(alert.at - alert.since)}:" if alert.state == RESOLVED else alert.severity
    return f"{head} {alert.rule}: {alert.subject}"


def text(alert: Alert) -> str:
    """What happened, what it means, what to do, and who answers for it."""
    lines = [f"What happened: {alert.what}"]
    if alert.state != RESOLVED:
        lines += [f"What it means: {alert.means}", f"What to do: {alert.todo}"]
    lines.append(f"Owner: {alert.owner or 'nobody is named'}")
    if alert.runbook:
        lines.append(f"Runbook: {alert.runbook}")
    return "\n".join(lines)


def chat(alert: Alert) -> dict[str, Any]:
    """The body of a Slack-style incoming webhook."""
    colour = _OVER if alert.state == RESOLVED else _COLOURS[alert.severity]
    whole = f"*{_plain(title(alert))}*\n{_plain(text(alert))}"
    return {"text": _plain(title(alert)), "attachments": [{"color": colour, "text": whole, "mrkdwn_in": ["text"]}]}


def mail(alert: Alert, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    """One mail; those of one episode are a thread, and one that is sent twice has the same id twice."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = f"[handrail] {title(alert)}"
    first = _message_id(alert, 1)
    message["Message-ID"] = _message_id(alert, alert.sequence)
    if alert.sequence > 1:
        message["In-Reply-To"] = message["References"] = first
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text(alert) + "\n")
    return message


def _message_id(alert: Alert, sequence: int) -> str:
    seed = f"{alert.alert}/{alert.since}/{sequence}".encode()
    return f"<{blake2b(seed, digest_size=16).hexdigest()}@handrail>"


def _plain(words: str) -> str:
    """The three signs that Slack reads as markup."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
