"""The page's routes: each reads the ledger, and answers in HTML. GET and HEAD only; nothing here changes anything."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from handrail.clock import Clock
from handrail.errors import HandrailError, StateError, Unreachable
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from handrail_console.database import Place, TookTooLong
from handrail_console.owners import Owners
from handrail_console.queries import ENDS, Queries
from handrail_console.web import looks
from handrail_console.web.assets import Assets
from handrail_console.web.kept import Kept
from handrail_console.web.rendering import Pages, encoded

WITHIN_S = 10.0
MEASURE_WITHIN_S = 60.0
AT_ONCE = 4
"""So many questions to the ledger at a time; who comes later waits."""
PERIODS: Mapping[str, tuple[str, int]] = {"7d": ("7 days", 7), "30d": ("30 days", 30), "90d": ("90 days", 90)}
PERIOD = "90d"
STATES = ("received", "prepared", "decided", "acting", "waiting", "compensating", "manual", *ENDS)
EVERY_S = 30
_TEXT = 400
"""A longer question is none that a person has typed."""
_NO_FLOW = "There is no such flow, neither in the ledger nor among the files."
_TRACE = re.compile(r"[0-9a-f]{32}")


class NotFound(HTTPException):
    """Something that the ledger does not have."""

    def __init__(self, what: str) -> None:
        super().__init__(404, what)


@dataclass(slots=True)
class Site:
    """What the views need. `owners` and `jaeger` (the address of its page, or None) are as settings have them."""

    place: Place
    owners: Owners
    jaeger: str | None
    clock: Clock
    pages: Pages
    assets: Assets
    _measured: Kept[looks.Measured] = field(default_factory=lambda: Kept(failures=(TookTooLong,)))
    _slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))

    def app(self) -> Starlette:
        views: Mapping[str, Callable[[Request], Response]] = {
            "/": self.overview,
            "/flows/{flow:path}": self.flow,
            "/incidents": self.incidents,
            "/tasks": self.tasks,
            "/runs": self.runs,
            "/runs/{run:path}": self.run,
            "/assets/{name}": self.asset,
            "/favicon.ico": self.icon,
        }
        return Starlette(
            routes=[Route(path, self._guarded(view), methods=["GET"]) for path, view in views.items()],
            exception_handlers={HTTPException: self._refused, Exception: self._broken},
        )

    # -- views ---------------------------------------------------------------------------------------------------

    def overview(self, request: Request) -> Response:
        period, since = self._since(request)
        every = _chosen(request, "every", ("", str(EVERY_S)), "")
        measured: looks.Measured | None = None
        with suppress(TookTooLong):  # what stands open is told without the measures, too
            measured = self._measured.get((None, period), lambda: self._measure(since, None))
        with self._reading() as queries:
            now = self.clock.now()
            watching = looks.watching(queries, now)
            incidents = looks.incidents(queries, self.owners, looks.FIRST + 1)
            tasks = looks.tasks(queries, looks.FIRST + 1)
            return self._page(
                queries,
                "overview.html",
                flows=looks.overview(queries, self.owners, measured, watching.alerts, now) if measured else [],
                measured=measured,
                period=period,
                periods=PERIODS,
                every=int(every) if every else None,
                every_s=EVERY_S,
                watching=watching,
                incidents=incidents[: looks.FIRST],
                more_incidents=len(incidents) > looks.FIRST,
                tasks=tasks[: looks.FIRST],
                more_tasks=len(tasks) > looks.FIRST,
            )

    def flow(self, request: Request) -> Response:
        name = request.path_params["flow"]
        period, since = self._since(request)
        with self._reading() as queries:
            if not looks.knows(queries, self.owners, name, self.clock.now()):
                raise NotFound(_NO_FLOW)
        measured = self._measured.get((name, period), lambda: self._measure(since, name))
        with self._reading() as queries:
            seen = looks.flow(queries, self.owners, name, measured, self.clock.now())
            if seen is None:
                raise NotFound(_NO_FLOW)
            return self._page(queries, "flow.html", seen=seen, measured=measured, period=period, periods=PERIODS)

    def incidents(self, _: Request) -> Response:
        with self._reading() as queries:
            rows = looks.incidents(queries, self.owners, looks.MOST + 1)
            return self._page(
                queries,
                "incidents.html",
                watching=looks.watching(queries, self.clock.now()),
                incidents=rows[: looks.MOST],
                more=len(rows) > looks.MOST,
            )

    def tasks(self, _: Request) -> Response:
        with self._reading() as queries:
            rows = looks.tasks(queries, looks.MOST + 1)
            return self._page(queries, "tasks.html", tasks=rows[: looks.MOST], more=len(rows) > looks.MOST)

    def runs(self, request: Request) -> Response:
        state = _chosen(request, "state", ("", *STATES), "")
        flow = _text(request, "flow")
        text = _text(request, "q").strip()
        with self._reading() as queries:
            seen = looks.runs(queries, [state] if state else (), flow or None, text, _after(request))
            if text and len(seen.rows) == 1:
                return RedirectResponse(f"/runs/{encoded(seen.rows[0]['run'])}", HTTPStatus.SEE_OTHER)
            flows = sorted({*queries.flows(), *self.owners.flows, *([flow] if flow else [])})
            return self._page(
                queries,
                "runs.html",
                seen=seen,
                state=state,
                flow=flow,
                text=text,
                states=STATES,
                flows=flows,
                paged=bool(_text(request, "after")),
            )

    def run(self, request: Request) -> Response:
        with self._reading() as queries:
            seen = looks.run(queries, request.path_params["run"], self.clock.now())
            if seen is None:
                raise NotFound("The ledger has no run of this id.")
            return self._page(queries, "run.html", seen=seen, trace=self._trace(seen.run["trace"]))

    def asset(self, request: Request) -> Response:
        found = self.assets.get(request.path_params["name"])
        if found is None:
            raise NotFound("There is no such file.")
        return found

    def icon(self, _: Request) -> Response:
        return RedirectResponse(self.assets.url("icon.svg"), HTTPStatus.SEE_OTHER)

    # -- around them ---------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Queries]:
        """The ledger, opened for one request: so one that was made anew, or appears later, is seen at once."""
        with self._slots:
            queries = Queries.open(self.place, WITHIN_S)
            try:
                yield queries
            finally:
                queries.close()

    def _measure(self, since: int, flow: str | None) -> looks.Measured:
        """Over a connection and a time of its own: it may take long, and other pages must not wait for it."""
        queries, now = Queries.open(self.place, MEASURE_WITHIN_S), self.clock.now()
        try:
            if flow is None:
                return looks.measure_all(queries, since, now)
            return looks.measure_one(queries, flow, since, now)
        finally:
            queries.close()

    def _page(self, queries: Queries, template: str, **context: Any) -> Response:
        now = self.clock.now()
        return self.pages.answer(200, template, now, ledger=looks.ledger(queries, now), **context)

    def _since(self, request: Request) -> tuple[str, int]:
        period = _chosen(request, "since", tuple(PERIODS), PERIOD)
        return period, self.clock.now() - PERIODS[period][1] * looks.DAY_MS

    def _trace(self, trace: str | None) -> str | None:
        """The address of a run's trace in Jaeger's page."""
        return f"{self.jaeger}/trace/{trace}" if self.jaeger and trace and _TRACE.fullmatch(trace) else None

    def _guarded(self, view: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Runs in a thread of the pool. What is wrong with the ledger is told as a page, with what to do."""

        def answer(request: Request) -> Response:
            try:
                return view(request)
            except (StateError, Unreachable) as error:
                return self._wrong(503, "The ledger can't be read", _sentence(error))
            except TookTooLong:
                what = "It is busy, or too large for this page. Try again later, or ask it yourself: handrail measures"
                return self._wrong(503, "The ledger takes too long", what)
            except HTTPException:
                raise
            except Exception:
                structlog.get_logger().exception("page_failed", path=request.url.path)
                what = "This is a fault of ours. The page's log tells more: handrail logs page"
                return self._wrong(500, "Something went wrong here", what)

        return answer

    async def _refused(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = {405: "This page is for reading only.", 404: "There is nothing at this address."}
        told = error.detail if isinstance(error, NotFound | BadQuestion) else what.get(error.status_code, error.detail)
        answer = self._wrong(error.status_code, HTTPStatus(error.status_code).phrase, told)
        answer.headers.update(error.headers or {})
        return answer

    async def _broken(self, _: Request, __: Exception) -> Response:
        return HTMLResponse("<!doctype html><title>500</title><p>Something went wrong here.", 500)

    def _wrong(self, status: int, title: str, what: str) -> Response:
        answer = self.pages.answer(status, "wrong.html", self.clock.now(), status=status, title=title, what=what)
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            answer.headers["Retry-After"] = "10"
        return answer


class BadQuestion(HTTPException):
    """A parameter of the address is not one that we know."""

    def __init__(self, what: str) -> None:
        super().__init__(400, what)


def _text(request: Request, name: str) -> str:
    given = request.query_params.get(name, "")
    if len(given) > _TEXT or "\x00" in given:
        raise BadQuestion(f"`{name}` is nothing that one could look for.")
    return given


def _chosen(request: Request, name: str, allowed: tuple[str, ...], default: str) -> str:
    given = _text(request, name) or default
    if given not in allowed:
        raise BadQuestion(f"`{name}` is one of: {', '.join(filter(None, allowed))}.")
    return given


def _after(request: Request) -> tuple[int, str] | None:
    """Where a page of runs begins: `<ms>.<run>`."""
    given = _text(request, "after")
    if not given:
        return None
    at, dot, run = given.partition(".")
    if not dot or not re.fullmatch(r"-?[0-9]{1,18}", at, re.ASCII):
        raise BadQuestion("`after` is not where a page begins.")
    return int(at), run


def _sentence(error: HandrailError) -> str:
    told = str(error)
    return told[:1].upper() + told[1:] + ("" if told.endswith((".", "!", "?")) else ".")
