"""From values to HTML: the templates and what they may call. Everything is escaped; a name that is missing is an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from handrail_console.web.assets import Assets
from handrail_console.words import line, moment, shown, span

_COMMAND = re.compile(r"handrail .*?(?= tells |$)")


class Pages:
    """The templates, compiled once."""

    def __init__(self, assets: Assets) -> None:
        self._environment = Environment(
            loader=PackageLoader("handrail_console.web", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        filters: dict[str, Callable[..., object]] = {
            "line": line,
            "shown": shown,
            "span": span,
            "when": when,
            "number": lambda n: f"{n:,}",
            "encoded": encoded,
            "step": step,
        }
        self._environment.filters.update(filters)
        self._environment.globals["asset"] = assets.url

    def answer(self, code: int, template: str, now: int, **context: Any) -> Response:
        """`now` (ms) is when the page is made, which it says. What it shows may be private: nobody keeps a copy."""
        html = self._environment.get_template(template).render(now=now, **{"ledger": None, **context})
        return HTMLResponse(html, code, headers={"Cache-Control": "no-store"})


def encoded(text: object) -> str:
    """As a part of an address."""
    return quote(str(text), safe="")


def when(at: int) -> Markup:
    """A moment for people and machines."""
    return Markup('<time datetime="{}">{}</time>').format(_iso(at), moment(at))


def step(text: str) -> Markup:
    """A next step, with the command in it set apart."""
    said = line(text, 400)
    found = _COMMAND.search(said)
    if found is None:
        return escape(said)
    return Markup("{}<code>{}</code>{}").format(said[: found.start()], found[0], said[found.end() :])


def _iso(at: int) -> str:
    try:
        return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return "1970-01-01T00:00:00Z"
