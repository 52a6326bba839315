"""`handrail trace`: a run's trace as a tree, from Jaeger."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from handrail_console.commands.room import JsonOption, fail, only_one, print_json, room, say
from handrail_console.commands.runs import FIND
from handrail_console.jaeger import Ask, Jaeger
from handrail_console.tracetree import Tree, as_json, lines, tree
from handrail_console.words import count, line, moment, span

MAX_LINKED = 20
"""Orders that are shown with a run; a run with more is a strange one."""
Row = dict[str, Any]


def trace(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run's id, the beginning of it, or its business key.")],
    as_json_: Annotated[bool, JsonOption] = False,
) -> None:
    """Show how a run went, span by span: who did what, when, how long it took, and what failed.

    Jaeger is asked where HANDRAIL_JAEGER says, else that of `handrail up --jaeger`; the link is to HANDRAIL_JAEGER_LINK
    where browsers reach it elsewhere. Exit code 1 when it has no trace of
    the run, 2 when it does not answer.

    Example: handrail trace 4711
    """
    here = room(context)
    with here.ledger() as ledger:
        row = only_one(ledger.find_runs(run), "run", "run", run, FIND)
        letters = ledger.letters_of(row["run"])
    wanted = _traces(row, letters)
    if not wanted:
        raise fail(f"run {row['run']} has no trace: it came in before there were any")
    jaeger = Jaeger(here.settings.jaeger, here.settings.jaeger_link)
    found = _gather(jaeger.trace, wanted)
    if not any(each in found for each in wanted):
        raise fail(
            f"Jaeger at {jaeger.url} has no trace {' or '.join(wanted)}",
            "Spans come a second or two after the fact. Else the services send to no collector "
            "(OTEL_EXPORTER_OTLP_ENDPOINT, handrail up --jaeger), the run was not sampled and did not fail, or Jaeger has "
            "forgotten it",
        )
    own = {each for each in wanted if each in found}
    if as_json_:
        told = [
            {**as_json(each), "link": jaeger.link(each.trace), "order": each.trace not in own}
            for each in found.values()
        ]
        print_json({"run": row["run"], "flow": row["flow"], "state": row["state"], "traces": told})
        return
    _print(row, jaeger, found, own)


def _traces(row: Row, letters: list[Row]) -> list[str]:
    """Those that the ledger knows of: the run's, and where its dead letters failed in another one."""
    return list(dict.fromkeys(one["trace"] for one in (row, *letters) if one["trace"]))


def _gather(ask: Ask, wanted: list[str]) -> dict[str, Tree]:
    """The trees of these traces, then those of the orders that they are linked to; what Jaeger does not know is left out."""
    found: dict[str, Tree] = {}
    for each in wanted:
        body = ask(each)
        if body is not None:
            found[each] = tree(each, body)
    linked = [link for each in list(found.values()) for link in each.links if link not in wanted]
    for each in list(dict.fromkeys(linked))[:MAX_LINKED]:
        body = ask(each)
        if body is not None:
            found[each] = tree(each, body)
    return found


def _print(row: Row, jaeger: Jaeger, found: dict[str, Tree], own: set[str]) -> None:
    began = min(found[each].began_us for each in own)
    say(f"Run {row['run']} of {row['flow']} v{row['version']}, business key {line(row['route'], 80)}: {row['state']}")
    say(f"Began {moment(began // 1_000)}; times are after that, then how long it took.")
    for each in found.values():
        spans = each.nodes()
        failed = f", {each.failures} failed" if each.failures else ""
        what = "Trace" if each.trace in own else "Order"
        say("")
        say(
            f"{what} {each.trace}: {count(len(spans), 'span')} of {', '.join(each.services)}; "
            f"{span(each.took_us // 1_000)}{failed}"
        )
        for text in lines(each, began):
            say("  " + text)
    say("")
    for trace_id in sorted(own):
        say(jaeger.link(trace_id))
    if not jaeger.has_page():
        say("(this Jaeger was built without its page: the link works with the image, the tree above is all the same)")
