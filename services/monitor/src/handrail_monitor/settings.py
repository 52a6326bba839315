"""Whom to tell, from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from handrail.errors import ConfigError

from handrail_monitor.limits import PREFIX

_NAMED = re.compile(PREFIX + r"WEBHOOK_([A-Z0-9_]+)")
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


@dataclass(frozen=True, slots=True)
class Smtp:
    """A mail server and whom its mails go to. `tls`: starttls, tls or none."""

    host: str
    port: int
    tls: str
    sender: str
    recipients: tuple[str, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Telling:
    """Webhooks by name ("" is the default one), the mail server, and what stands before the path of a runbook."""

    webhooks: Mapping[str, str] = field(default_factory=dict, repr=False)
    smtp: Smtp | None = None
    link: str = ""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Telling:
        """Read `HANDRAIL_MONITOR_WEBHOOK`, `_WEBHOOK_<NAME>`, `_SMTP` (host:port), `_SMTP_TLS`, `_SMTP_USER`,
        `_SMTP_PASSWORD`, `_MAIL_FROM`, `_MAIL_TO`, `_LINK`.

        A flow's `alerts: {to: slack:billing}` is the webhook `_WEBHOOK_BILLING`. Raises ConfigError; a secret is in no error.
        """
        webhooks = {}
        for name, value in sorted(env.items()):
            found = _NAMED.fullmatch(name)
            if value.strip() and (found or name == f"{PREFIX}WEBHOOK"):
                webhooks[found[1].lower().replace("_", "-") if found else ""] = _url(name, value.strip())
        return cls(webhooks, _smtp(env), env.get(f"{PREFIX}LINK", ""))


def _url(name: str, value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{name} is no http(s) address")
    return value


def _smtp(env: Mapping[str, str]) -> Smtp | None:
    server = env.get(f"{PREFIX}SMTP", "").strip()
    if not server:
        return None
    tls = env.get(f"{PREFIX}SMTP_TLS", "").strip() or "starttls"
    if tls not in _PORTS:
        raise ConfigError(f"{PREFIX}SMTP_TLS={tls!r}: write starttls, tls or none")
    host, colon, port = server.rpartition(":")
    if not colon:
        host, port = server, str(_PORTS[tls])
    if not re.fullmatch(r"[^@/\s]+", host) or not port.isdecimal():  # it may hold a password: it is in no error
        raise ConfigError(f"{PREFIX}SMTP: write host:port, mail.example.com:587 say")
    recipients = tuple(one.strip() for one in env.get(f"{PREFIX}MAIL_TO", "").split(",") if one.strip())
    sender = env.get(f"{PREFIX}MAIL_FROM", "").strip()
    for name, addresses in (("MAIL_TO", recipients), ("MAIL_FROM", (sender,))):
        if not addresses or not all(re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", one) for one in addresses):
            raise ConfigError(f"{PREFIX}{name}: {PREFIX}SMTP is set, so write an address here, such as ops@example.com")
    user, password = env.get(f"{PREFIX}SMTP_USER") or None, env.get(f"{PREFIX}SMTP_PASSWORD") or None
    return Smtp(host, int(port), tls, sender, recipients, user, password)
