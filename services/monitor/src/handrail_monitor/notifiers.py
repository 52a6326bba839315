"""Ways to tell a person: a webhook, a mail, the log. Each tells one alert once, or raises; patience is in `outlets`."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

import aiohttp
import aiosmtplib
import structlog

from handrail_monitor.alerts import RESOLVED, Alert
from handrail_monitor.notices import chat, mail, text, title
from handrail_monitor.settings import Smtp

_REPLY_BYTES = 1_000
_NAME_S = 2.0
_QUIT_S = 1.0


class NotTold(Exception):
    """It did not arrive, or nobody knows. `final`: trying again would not help."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class Notifier(Protocol):
    """Tells one alert within `within_s` seconds, or raises NotTold."""

    async def tell(self, alert: Alert, within_s: float) -> None: ...


class Log:
    """A line in monitor's own log, which `handrail logs monitor` shows."""

    async def tell(self, alert: Alert, within_s: float) -> None:  # noqa: ARG002 - writing a line does not take long
        log = structlog.get_logger()
        say = log.info if alert.state == RESOLVED else log.error if alert.severity == "CRITICAL" else log.warning
        say(
            "alert", alert=alert.alert, state=alert.state, severity=alert.severity, title=title(alert), text=text(alert)
        )


class Webhook:
    """A Slack-style incoming webhook. Its address is a secret: it is in no error."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def tell(self, alert: Alert, within_s: float) -> None:
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(self._url, json=chat(alert), allow_redirects=False) as reply,
            ):
                await reply.content.read(_REPLY_BYTES)
                if reply.status >= 300:
                    final = reply.status < 500 and reply.status not in (408, 425, 429)
                    raise NotTold(f"the webhook answered {reply.status}", final=final)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotTold(f"the webhook did not answer: {type(error).__name__}") from None


class Mail:
    """A mail to fixed recipients."""

    def __init__(self, smtp: Smtp, recipients: tuple[str, ...]) -> None:
        self._smtp, self._recipients = smtp, recipients

    async def tell(self, alert: Alert, within_s: float) -> None:
        smtp = self._smtp
        client = aiosmtplib.SMTP(
            hostname=smtp.host,
            port=smtp.port,
            use_tls=smtp.tls == "tls",
            start_tls=smtp.tls == "starttls",
            username=smtp.user,
            password=smtp.password,
            timeout=within_s,
            local_hostname=await _own_name(),
        )
        try:
            await client.connect()
            refused, _ = await client.send_message(mail(alert, smtp.sender, self._recipients))
            await _part(client)
        except aiosmtplib.SMTPRecipientsRefused as error:
            final = all(one.code >= 500 for one in error.recipients)
            raise NotTold("the mail server refused every recipient", final=final) from None
        except aiosmtplib.SMTPResponseException as error:
            raise NotTold(f"the mail server answered {error.code}", final=error.code >= 500) from None
        except (aiosmtplib.SMTPException, TimeoutError, OSError) as error:
            raise NotTold(f"the mail server did not answer: {type(error).__name__}") from None
        finally:
            client.close()  # its `async with` says QUIT first, also when cancelled, and waits for an answer
        if refused:
            structlog.get_logger().warning("not told", notifier="mail", why=f"{len(refused)} recipients were refused")


async def _own_name() -> str:
    """How a mail server is greeted: by the whole name of this machine, else by an address (RFC 5321, 4.1.3).

    aiosmtplib would ask for it in one of the few threads that all share.
    """
    name, found = socket.gethostname(), []
    with suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout(_NAME_S):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, flags=socket.AI_CANONNAME)
    names = [name, *(canonical for _, _, _, canonical, _ in found)]
    return next((one for one in names if "." in one), "[127.0.0.1]")


async def _part(client: aiosmtplib.SMTP) -> None:
    """Say QUIT. The mail is the server's by now, whatever it answers (RFC 5321, 4.2.5)."""
    with suppress(aiosmtplib.SMTPException, TimeoutError, OSError):
        await client.quit(timeout=_QUIT_S)
