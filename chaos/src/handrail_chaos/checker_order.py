"""Did what belongs to one key happen in its order? Pure.

docs/guarantees.md, section 3, promises two things, and from them comes what is demanded here:

- *A message that is tried again holds back its own key and nothing else.* So in a stage that orders by key, the outputs for
  one key of one partition of its inbox come in the order in which their inputs came first, also those that were tried
  again. Not promised, so left out: an input that ever became a dead letter (a key is not held back behind it, and its
  replay comes later), and one without a key.
- *Calls of one key to one system are made one after the other.* So the effects of one route are in the books in the order
  of their commands. Left out: a command whose outcome is unknown, as its call may still be under way.

Between ends, billing's books have a key's events in the order in which they came first to the source topic: those that
were never a dead letter nor with a person, and that came by one partition only (between partitions there is no order).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from handrail_chaos.checker_ends import Ends
from handrail_chaos.checker_stage import StageView
from handrail_chaos.checker_words import Findings
from handrail_chaos.evidence import OUTCOME, Effect, Evidence, Record, Role, Stage


def check_order(evidence: Evidence, views: list[StageView], ends: Ends, found: Findings) -> None:
    """Everything by the rules above."""
    for view in views:
        if view.stage.ordered:
            for topic in view.stage.outputs:
                _outputs(evidence, view, topic, found)
        if view.stage.role is Role.ACTION:
            _calls(evidence, view.stage, ends, found)
    _books(evidence, ends, found)


def _outputs(evidence: Evidence, view: StageView, topic: str, found: Findings) -> None:
    """Inputs of one key, by the order of their outputs in one partition."""
    keys = {(record.partition, record.event): record.key for record in view.inbox.records}
    where = {event: (partition, event) for partition, event in keys}
    last: dict[tuple[int, bytes, int], tuple[int, str]] = {}
    firsts: dict[tuple[str | None, int], Record] = {}  # one that comes again is twice, whenever it comes
    for record in evidence.topic(topic).outputs:
        firsts.setdefault((record.cause, record.partition), record)
    for record in firsts.values():
        place = where.get(record.cause or "")
        key = keys[place] if place is not None else None
        if place is None or not key or place in view.letters or place in view.replayed:
            continue
        group, offset = (place[0], key, record.partition), view.first[place]
        before = last.get(group)
        if before is not None and offset < before[0]:
            why = f"in {topic} it comes after {before[1]}, which came later to {view.stage.inbox}"
            found.order(view.said(place), why)
        elif before is None or offset > before[0]:
            last[group] = (offset, place[1])


def _calls(evidence: Evidence, stage: Stage, ends: Ends, found: Findings) -> None:
    """Effects of one route, by the order of their commands."""
    unknown = {
        _key(record.body)
        for topic in stage.each
        for record in evidence.topic(topic).records
        if record.contract == OUTCOME and record.body is not None and record.body["status"] == "unknown"
    }
    commands: dict[str, tuple[str, int]] = {}
    for record in evidence.topic(stage.inbox).records:
        if record.body is not None:
            commands.setdefault(_key(record.body), (record.body["route"], record.offset))
    last: dict[str, tuple[int, str]] = {}
    for effect in _first_effects(evidence, lambda one: one.key):
        key = effect.key or ""
        if key not in commands or key in unknown:
            continue
        route, offset = commands[key]
        before = last.get(route)
        if before is not None and offset < before[0]:
            name = ends.name_of_run(key.partition("/")[0])
            found.order(name, f"its effect is in the books after that of {before[1]}, whose command came later")
        elif before is None or offset > before[0]:
            last[route] = (offset, key)


def _books(evidence: Evidence, ends: Ends, found: Findings) -> None:
    """Effects of one key, by the order of the source topic."""
    first: dict[str, tuple[int, int]] = {}
    for name, records in ends.present.items():
        if name not in ends.troubled and len({record.partition for record in records}) == 1:
            first[name] = (records[0].partition, min(record.offset for record in records))
    last: dict[tuple[str, int], tuple[int, str]] = defaultdict(lambda: (-1, ""))
    for effect in _first_effects(evidence, lambda one: one.reference):
        if effect.reference not in first:
            continue
        partition, offset = first[effect.reference]
        group = (effect.reference.rpartition("/")[0], partition)
        if offset < last[group][0]:
            found.order(effect.reference, f"its effect is in the books after that of {last[group][1]}, published later")
        else:
            last[group] = (offset, effect.reference)


def _first_effects(evidence: Evidence, what: Callable[[Effect], str | None]) -> list[Effect]:
    """In the books' order, the first of each: one that comes again is twice, whenever it comes."""
    first: dict[str | None, Effect] = {}
    for effect in sorted(evidence.effects or (), key=lambda one: one.id):
        first.setdefault(what(effect), effect)
    return list(first.values())


def _key(body: object) -> str:
    assert isinstance(body, dict)
    return f"{body['run']}/{body['step']}/r{body['revision']}"
