"""Patience: each notifier has a queue and a task of its own, so that one which hangs never holds up another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog
from handrail.cancelling import cancelled
from handrail.clock import Clock

from handrail_monitor.alerts import Alert
from handrail_monitor.notifiers import Log, Mail, Notifier, NotTold, Webhook
from handrail_monitor.settings import Telling

LOG = "log"
ATTEMPT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
GIVE_UP_MS = 3_600_000
"""A notice that nobody took for so long is let go; the alert itself stays, and its next notice is tried again."""
ROOM = 1_000

Told = Callable[[Alert, str], None]


class Outlet:
    """One notifier, in order: the end of an alert never overtakes its beginning. `told` is called for each that arrived."""

    def __init__(
        self,
        name: str,
        notifier: Notifier,
        told: Told,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        attempt_s: float = ATTEMPT_S,
    ) -> None:
        self.name = name
        self._notifier, self._told, self._clock, self._sleep, self._attempt_s = notifier, told, clock, sleep, attempt_s
        self._queue: asyncio.Queue[Alert] = asyncio.Queue(ROOM)
        self._log = structlog.get_logger().bind(notifier=name)

    def offer(self, alert: Alert) -> None:
        """Tell it, later. With a thousand notices in the queue the oldest gives way, and that is logged."""
        if self._queue.full():
            gone = self._queue.get_nowait()
            self._log.error("not told", alert=gone.alert, why="too many notices wait")
        self._queue.put_nowait(alert)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._tell(await self._queue.get())

    async def _tell(self, alert: Alert) -> None:
        pause = FIRST_PAUSE_S
        while True:
            why = await self._attempt(alert)
            if why is None:
                self._told(alert, self.name)
                return
            if why.final or self._clock.now() - alert.at > GIVE_UP_MS:
                self._log.error("not told", alert=alert.alert, state=alert.state, why=str(why))
                return
            self._log.warning("told later", alert=alert.alert, why=str(why), after_s=pause)
            await self._sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _attempt(self, alert: Alert) -> NotTold | None:
        """None when it arrived. The time is bounded here, whatever the notifier does with it."""
        try:
            async with asyncio.timeout(self._attempt_s * 1.1):
                await self._notifier.tell(alert, self._attempt_s)
        except NotTold as why:
            return why
        except TimeoutError:
            return NotTold("it took too long")
        except Exception as error:  # a notifier of which we did not think so: the others and the next notice go on
            return NotTold(f"{type(error).__name__}", final=True)
        return None


class Outlets:
    """All of them, and which alert goes where: to the log always; to those that its flow names, else to the default ones."""

    def __init__(self, outlets: Iterable[Outlet], defaults: Iterable[str]) -> None:
        self._outlets = {one.name: one for one in outlets}
        self._defaults = tuple(defaults)

    def missing(self, wanted: Iterable[str]) -> list[str]:
        """Names that flows want told and nobody has set up."""
        return sorted(set(wanted) - self._outlets.keys())

    def names_for(self, alert: Alert) -> tuple[str, ...]:
        """A name that nobody has set up falls back to the default ones: better told there than nowhere."""
        named = [one for one in alert.to if one in self._outlets]
        if len(named) < len(alert.to) or not alert.to:
            named += self._defaults
        return tuple(dict.fromkeys((LOG, *named)))

    def tell(self, alert: Alert) -> None:
        """To everyone who has not been told of it."""
        for name in self.names_for(alert):
            if name not in alert.told:
                self._outlets[name].offer(alert)

    async def run(self) -> None:
        """Until cancelled, or until one of them ends, by an error of ours. Raises that error."""
        tasks = [asyncio.create_task(one.run(), name=one.name) for one in self._outlets.values()]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled(*tasks)
        for task in ended:
            task.result()


def outlets_of(telling: Telling, wanted: Iterable[str], told: Told, clock: Clock) -> Outlets:
    """As the settings say. `wanted`: what flows name, `slack:<name>` and `mail:<address>`."""
    notifiers: dict[str, Notifier] = {LOG: Log()}
    defaults = []
    for name, url in telling.webhooks.items():
        notifiers[f"slack:{name}" if name else "webhook"] = Webhook(url)
    if "" in telling.webhooks:
        defaults.append("webhook")
    if telling.smtp is not None:
        notifiers["mail"] = Mail(telling.smtp, telling.smtp.recipients)
        defaults.append("mail")
        for one in wanted:
            if one.startswith("mail:"):
                notifiers[one] = Mail(telling.smtp, (one.removeprefix("mail:"),))
    if not defaults:  # a notice that names nobody, such as of a silent service, must not end in a log that nobody reads
        defaults = [name for name in notifiers if name != LOG]
    return Outlets([Outlet(name, each, told, clock) for name, each in notifiers.items()], defaults)
