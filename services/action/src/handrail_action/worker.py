"""Makes the calls, on an asyncio thread of its own, while the stage goes on polling."""

from __future__ import annotations

import asyncio
import threading
import time
from base64 import b64encode
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import aiohttp
from handrail.clock import Clock
from handrail.flow import System
from handrail.message import Finished
from handrail.telemetry import Telemetry
from handrail.traceparent import kept

from handrail import telemetry
from handrail_action.addresses import Forbidden, GuardedResolver
from handrail_action.calls import Job, Reply

MAX_REPLY_BYTES = 1_000_000
ROOM = 4  # jobs that may be under way or queued, for each call that may be in flight
_CLOSE_S = 5.0


class HttpWorker:
    """Calls one system. `start` and the like are called by the stage's thread only.

    Jobs of one effect are made one after the other. Usually the handler sees to that itself, but when the clock jumps or
    the process was stopped, an effect's timer is due before its call has ended, and asking then would be too early.
    """

    def __init__(self, system: System, stage: str, clock: Clock, recorder: Telemetry) -> None:
        self._system, self._stage, self._clock, self._telemetry = system, stage, clock, recorder
        self._results: deque[tuple[int, Finished]] = deque()
        self._under_way: dict[tuple[int, str], asyncio.Future[None]] = {}
        self._count = 0
        self._forgotten: dict[int, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"calls-{system.name}", daemon=True)
        self._session: aiohttp.ClientSession | None = None
        self._places: asyncio.Semaphore | None = None
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def start(self, partition: int, key: str, job: Job) -> None:
        self._count += 1
        epoch = self._forgotten.get(partition, 0)
        asyncio.run_coroutine_threadsafe(self._do(partition, epoch, key, job), self._loop)

    def finished(self) -> Sequence[tuple[int, Finished]]:
        taken = []
        while self._results:
            taken.append(self._results.popleft())
        self._count -= len(taken)
        return [(partition, each) for partition, each in taken if each.result is not None]

    def busy(self) -> bool:
        return self._count > 0

    def room(self) -> int:
        """How many more jobs may be started before calls would only queue up."""
        return max(0, ROOM * self._system.limits.concurrency - self._count)

    def forget(self, partition: int) -> None:
        self._forgotten[partition] = self._forgotten.get(partition, 0) + 1

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(_CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()

    # --- in the calls' own thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _open(self) -> None:
        concurrency = self._system.limits.concurrency
        self._places = asyncio.Semaphore(concurrency)
        headers = {}
        auth = self._system.auth
        if auth is not None and auth.header is not None:
            headers[auth.header.name] = auth.header.value
        if auth is not None and auth.basic is not None:
            pair = b64encode(f"{auth.basic.user}:{auth.basic.password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        connector = aiohttp.TCPConnector(
            limit=concurrency, resolver=GuardedResolver(self._system), keepalive_timeout=30
        )
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar())
        # Else aiohttp sends a PUT or DELETE again by itself when a kept connection breaks; there is no public switch.
        self._session._retry_connection = False

    async def _shut(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _do(self, partition: int, epoch: int, key: str, job: Job) -> None:
        """One job to one result, whatever happens; None when the partition was taken away meanwhile."""
        where = (partition, key)
        before, ended = self._under_way.get(where), self._loop.create_future()
        self._under_way[where] = ended
        if before is not None:
            await before
        try:
            reply: Reply | None = await self._call(job)
        except Exception as error:  # a reply is owed for every job, else the stage would wait for it
            reply = Reply(job.kind, job.attempt, job.check, trouble="lost", detail=f"{type(error).__name__}: {error}")
        lost = job.kind == "call" and reply is not None and reply.trouble == "lost"
        self._loop.call_later(self._system.settle_ms / 1000 if lost else 0, self._end, where, ended)
        if self._forgotten.get(partition, 0) != epoch:
            reply = None
        self._results.append((partition, Finished(key, reply)))

    def _end(self, where: tuple[int, str], ended: asyncio.Future[None]) -> None:
        """Nothing of this job can arrive any more: the next of its effect may begin."""
        if not ended.done():
            ended.set_result(None)
        if self._under_way.get(where) is ended:
            del self._under_way[where]

    async def _call(self, job: Job) -> Reply:
        if self._places is None or self._session is None:
            raise RuntimeError("the worker was not opened")
        async with self._places:
            if self._clock.now() > job.send_by:
                detail = "not sent: its time to be sent had passed"
                return Reply(job.kind, job.attempt, job.check, trouble="too-late", detail=detail)
            context = self._telemetry.child(job.traceparent, job.run)
            started = time.time_ns()
            reply = await self._request(self._session, job, context)
            failed = reply.trouble or (str(reply.status) if (reply.status or 0) >= 400 else None)
            self._record(job, reply, context, started, failed)
            return replace(reply, traceparent=kept(context)) if failed else reply

    async def _request(self, session: aiohttp.ClientSession, job: Job, context: str) -> Reply:
        timeout = aiohttp.ClientTimeout(total=job.total_ms / 1000, sock_connect=job.connect_ms / 1000)

        def nothing(trouble: str, error: BaseException) -> Reply:
            detail = f"{self._system.name}: {type(error).__name__}: {error}".rstrip(": ")
            lost = trouble == "lost"
            return Reply(
                job.kind,
                job.attempt,
                job.check,
                trouble="lost" if lost else "not-sent",
                detail=detail,
                traceparent=context,
            )

        try:
            async with session.request(
                job.method,
                job.url,
                data=job.body,
                headers=job.headers | {"traceparent": context},
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                body = await response.content.read(MAX_REPLY_BYTES)
                while len(body) < MAX_REPLY_BYTES and (
                    more := await response.content.read(MAX_REPLY_BYTES - len(body))
                ):
                    body += more
                return Reply(
                    job.kind,
                    job.attempt,
                    job.check,
                    status=response.status,
                    body=body,
                    retry_after=response.headers.get("Retry-After"),
                    traceparent=context,
                )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL, Forbidden) as error:
            return nothing("not-sent", error)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return nothing("lost", error)

    def _record(self, job: Job, reply: Reply, context: str, started: int, failed: str | None) -> None:
        if self._telemetry.on:
            attributes: dict[str, str | int | float | bool] = {
                telemetry.SYSTEM: self._system.name,
                telemetry.RUN: job.run,
                telemetry.ATTEMPT: job.attempt,
                telemetry.HTTP_METHOD: job.method,
            }
            if reply.status is not None:
                attributes[telemetry.HTTP_STATUS] = reply.status
            self._telemetry.record(
                stage=self._stage,
                operation=job.kind,
                parent=job.traceparent,
                context=context,
                start_ns=started,
                end_ns=time.time_ns(),
                attributes=attributes,
                error=failed,
            )
