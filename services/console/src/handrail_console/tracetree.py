"""A trace as a tree: Jaeger's spans in, the tree and its lines out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from handrail.telemetry import ATTEMPT, ERROR_TYPE, HTTP_STATUS, REPLAY, SERVICE_PREFIX, STAGE, SYSTEM

from handrail_console.words import line, span


@dataclass(slots=True)
class Node:
    """One span and those below it, by their beginning.

    Times in µs since the epoch. `parent` is the id of the span above it, also where that one was not recorded (`orphan`);
    `links` are traces that caused it.
    """

    id: str
    parent: str | None
    service: str
    operation: str
    place: str
    began_us: int
    took_us: int
    failed: bool
    error: str | None
    attempt: int | None
    replay: int | None
    status: int | None
    links: tuple[str, ...]
    orphan: bool = False
    below: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """It and all below it, each before those below it."""
        waiting = [self]
        while waiting:
            one = waiting.pop()
            yield one
            waiting.extend(reversed(one.below))


@dataclass(frozen=True, slots=True)
class Tree:
    """A trace. `roots` are its spans without a parent, and those whose parent nobody has recorded."""

    trace: str
    roots: tuple[Node, ...]

    def nodes(self) -> list[Node]:
        return [node for root in self.roots for node in root.walk()]

    @property
    def began_us(self) -> int:
        return min((node.began_us for node in self.nodes()), default=0)

    @property
    def took_us(self) -> int:
        return max((node.began_us + node.took_us for node in self.nodes()), default=0) - self.began_us

    @property
    def services(self) -> list[str]:
        return sorted({node.service for node in self.nodes()})

    @property
    def links(self) -> list[str]:
        """Other traces that caused something in this one, in the order in which they did."""
        found = [link for node in sorted(self.nodes(), key=lambda node: node.began_us) for link in node.links]
        return [link for link in dict.fromkeys(found) if link != self.trace]

    @property
    def failures(self) -> int:
        return sum(node.failed for node in self.nodes())


def tree(trace: str, body: Mapping[str, Any]) -> Tree:
    """The tree of a trace as Jaeger's API gives it. A span that it gives twice counts once."""
    processes = body.get("processes") or {}
    nodes = {str(span["spanID"]): _node(trace, span, processes) for span in body.get("spans") or ()}
    roots = []
    for node in sorted(nodes.values(), key=lambda node: (node.began_us, node.id)):
        above = nodes.get(node.parent or "")
        if above is None or _is_above(node, above, nodes):
            node.orphan = node.parent is not None
            roots.append(node)
        else:
            above.below.append(node)
    return Tree(trace, tuple(roots))


def _is_above(node: Node, above: Node, nodes: Mapping[str, Node]) -> bool:
    """Whether the parent hangs below the span itself: no tree then."""
    one: Node | None = above
    for _ in range(len(nodes)):
        if one is None:
            return False
        if one is node:
            return True
        one = nodes.get(one.parent or "")
    return True


def _node(trace: str, raw: Mapping[str, Any], processes: Mapping[str, Any]) -> Node:
    tags = {tag["key"]: tag["value"] for tag in raw.get("tags") or ()}
    references = raw.get("references") or ()
    parents = [one["spanID"] for one in references if one["refType"] == "CHILD_OF" and one["traceID"] == trace]
    name = str(processes.get(str(raw.get("processID")), {}).get("serviceName", "?"))
    operation, _, place = str(raw["operationName"]).partition(" ")
    return Node(
        id=str(raw["spanID"]),
        parent=str(parents[0]) if parents else None,
        service=name.removeprefix(SERVICE_PREFIX),
        operation=operation,
        place=str(tags.get(SYSTEM) or tags.get(STAGE) or place),
        began_us=int(raw["startTime"]),
        took_us=int(raw["duration"]),
        failed=str(tags.get("error", False)).lower() == "true",
        error=str(tags[ERROR_TYPE]) if ERROR_TYPE in tags else None,
        attempt=_number(tags.get(ATTEMPT)),
        replay=_number(tags.get(REPLAY)),
        status=_number(tags.get(HTTP_STATUS)),
        links=tuple(str(one["traceID"]) for one in references if one["refType"] == "FOLLOWS_FROM"),
    )


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def as_json(whole: Tree) -> dict[str, Any]:
    """The tree for programs: every span flat, in the order of the tree, with its depth. Times in ms."""
    began = whole.began_us
    return {
        "trace": whole.trace,
        "began_at": began // 1_000,
        "took_ms": whole.took_us / 1_000,
        "services": whole.services,
        "links": whole.links,
        "spans": [
            {
                "id": node.id,
                "parent": node.parent,
                "parent_recorded": node.parent is not None and not node.orphan,
                "depth": depth,
                "service": node.service,
                "operation": node.operation,
                "place": node.place,
                "after_ms": (node.began_us - began) / 1_000,
                "took_ms": node.took_us / 1_000,
                "failed": node.failed,
                "error": node.error,
                "attempt": node.attempt,
                "replay": node.replay,
                "status": node.status,
                "links": list(node.links),
            }
            for depth, _, node in _drawn(whole)
        ],
    }


def lines(whole: Tree, since_us: int) -> list[str]:
    """A line for each span: when it began (after `since_us`), how long it took, and what it was in its place in the tree."""
    rows = [
        (
            "+" + span((node.began_us - since_us) // 1_000),
            _short(node.took_us),
            branch + f"{node.service} {node.operation} {node.place}" + _remarks(node),
        )
        for _, branch, node in _drawn(whole)
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return [f"{at:>{widths[0]}}  {took:>{widths[1]}}  {what}" for at, took, what in rows]


def _drawn(whole: Tree) -> Iterator[tuple[int, str, Node]]:
    """Depth, branches and node, each before those below it. No recursion: a run of many retries is a deep tree."""
    waiting = [(0, "", "", root) for root in reversed(whole.roots)]
    while waiting:
        depth, branch, margin, node = waiting.pop()
        yield depth, branch, node
        for index in range(len(node.below) - 1, -1, -1):
            last = index == len(node.below) - 1
            waiting.append(
                (depth + 1, margin + ("└ " if last else "├ "), margin + ("  " if last else "│ "), node.below[index])
            )


def _remarks(node: Node) -> str:
    said = []
    if node.failed:
        said.append(f"FAILED: {line(node.error or 'no class', 80)}")
    elif node.status is not None:
        said.append(str(node.status))
    if node.attempt is not None and node.attempt > 1:
        said.append(f"attempt {node.attempt}")
    if node.replay:
        said.append(f"replay {node.replay}")
    if node.links:
        said.append("ordered in trace " + ", ".join(link[:8] for link in node.links))
    if node.orphan:
        said.append("what was before it is not recorded here")
    return f"  ({'; '.join(said)})" if said else ""


def _short(us: int) -> str:
    return f"{us} µs" if us < 1_000 else f"{us / 1_000:.1f} ms" if us < 1_000_000 else span(us // 1_000)
