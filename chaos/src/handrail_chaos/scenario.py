"""The fixed scenarios: one bad day each, always the same, for one real stage on a real Kafka.

A correct build passes each of them; the build that breaks the rule in question does not.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, Producer, TopicPartition
from handrail.envelope import Replay, write_replay
from handrail.identity import letter_id
from handrail_sandbox.books import Books
from handrail_sandbox.client import SandboxControl

from handrail_chaos.errors import ChaosError
from handrail_chaos.scenario_stage import BROKEN, FAILS
from handrail_chaos.scenario_world import PARTITIONS, START_S, Event, World

Scenario = Callable[[World], None]

KEYS = 6
HIDDEN_S, CALL_S = 5.0, 4.0


def events(first: int, last: int) -> list[Event]:
    """Revisions `first` to `last` of six orders, all first ones first."""
    return [(f"o{key}", revision) for revision in range(first, last + 1) for key in range(KEYS)]


def _to_rest(world: World) -> None:
    """A process without faults handles what is there, and is told to end."""
    child = world.start()
    world.rest(starting=True)
    world.stop(child)


def copies(world: World) -> None:
    """Half of the orders come again, some at once, some after a restart that has lost its disk."""
    world.publish(events(1, 6))
    world.publish(events(2, 4))
    _to_rest(world)
    world.lose_disk()
    world.publish(events(1, 2))
    world.publish(events(7, 8))
    _to_rest(world)


def killed_before_a_commit(world: World) -> None:
    """Killed with everything flushed and nothing committed, in the third batch; then started again."""
    world.publish(events(1, 25))
    world.killed("before-commit:3:kill")
    _to_rest(world)


def a_refused_commit(world: World) -> None:
    """The third commit is refused, and the process goes on."""
    world.publish(events(1, 25))
    child = world.start("before-commit:3:abort")
    world.until_hit(child)
    world.rest()
    world.stop(child)


def an_unknown_commit(world: World) -> None:
    """The third commit has happened, and the process is told that nobody knows."""
    world.publish(events(1, 25))
    child = world.start("after-commit:3:abort")
    world.until_hit(child)
    world.rest()
    world.stop(child)


def an_open_transaction_while_restoring(world: World) -> None:
    """Somebody's open transaction hides the newest marks and rows from a process that has lost its disk."""
    world.publish(events(1, 3))
    child = world.start()
    world.rest(starting=True)
    with _open_transaction(world) as close:
        world.publish(events(4, 6))
        world.until("the second part is handled", world.caught_up)
        world.stop(child)
        world.lose_disk()
        world.publish(events(4, 8))
        child = world.start()
        state = world.folder / "home" / "state" / world.stage / "0"
        world.until("it restores", lambda: len(list(state.glob("*"))) >= PARTITIONS)
        world.holds_within(world.caught_up, HIDDEN_S)  # only a build that does not wait gets there
        close()
        world.rest()
    world.stop(child)


@contextmanager
def _open_transaction(world: World) -> Iterator[Callable[[], None]]:
    producer = Producer({"bootstrap.servers": world.bootstrap, "transactional.id": f"{world.stage}-stranger"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for topic in (f"{world.stage}.marks", f"{world.stage}.state"):
        for partition in range(PARTITIONS):
            producer.produce(topic, bytes(16), b"stranger", partition)
    producer.flush(30)
    left = [lambda: producer.abort_transaction(30)]

    def close() -> None:
        if left:
            left.pop()()

    try:
        yield close
    finally:
        close()


def a_zombie(world: World) -> None:
    """A process stops with its batch handled and nothing sent; its heir does everything; then it goes on."""
    world.publish(events(1, 12))
    zombie = world.start("before-produce:2:stop", home="elsewhere")
    world.until_hit(zombie)
    heir = world.start()
    world.until("the heir has done everything", world.caught_up)
    world.signal(zombie, signal.SIGCONT)
    world.until("the zombie is refused, or commits", lambda: zombie.poll() is not None or world.behind())
    world.rest()
    world.stop(zombie)
    world.stop(heir)


def a_key_that_waits(world: World) -> None:
    """An order fails for now while later revisions of it and other orders come."""
    world.publish(events(1, 1))
    world.publish([("o1", 2)], segment=FAILS)
    world.publish([("o1", 3), ("o1", 4), ("o2", 2), ("o3", 2)])
    child = world.start()
    world.until("all of it was taken", world.caught_up)
    world.publish([("o1", 5)])
    world.until("all of it was taken", world.caught_up)
    (world.folder / "mended").touch()
    world.rest()
    world.stop(child)


def what_can_not_be_handled(world: World) -> None:
    """Records that do not decode, and orders that break their contract, between good ones."""
    world.publish(events(1, 1))
    world.publish_bytes(b"\xffnobody can read this", "o1")
    world.publish([("o2", 2), ("o4", 2)], segment=BROKEN)
    world.publish(events(3, 4))
    _to_rest(world)


def a_replay_that_comes_twice(world: World) -> None:
    """A dead letter is replayed, and its replay is sent again, as a person's double click would."""
    world.publish([("o1", 1)], segment=BROKEN)
    world.publish(events(2, 3))
    child = world.start()
    world.rest(starting=True)
    (world.folder / "mended").touch()
    before = world.outputs()
    for _ in range(2):
        _replay(world, world.published[0].partition, world.published[0].offset)
    world.until("a replay is handled", lambda: world.outputs() > before)
    world.rest()
    world.stop(child)


def _replay(world: World, partition: int | None, offset: int | None) -> None:
    """The original bytes with the header of its letter's first generation."""
    if partition is None or offset is None:
        raise ChaosError("what is to be replayed was never acknowledged")
    reader = Consumer({"bootstrap.servers": world.bootstrap, "group.id": f"{world.stage}-replay"})
    try:
        reader.assign([TopicPartition(world.inbox, partition, offset)])
        message = reader.poll(START_S)
    finally:
        reader.close()
    if message is None or message.error() is not None:
        raise ChaosError(f"{world.inbox}/{partition}/{offset} can't be read")
    headers = dict(message.headers() or ())
    event = bytes(headers["ce_id"] or b"").decode()  # type: ignore[arg-type]
    name, value = write_replay(Replay(letter_id(world.stage, event), 1, world.inbox, partition, offset))
    producer = Producer({"bootstrap.servers": world.bootstrap})
    producer.produce(
        f"{world.stage}.replay", message.value(), message.key(), partition, headers=[*headers.items(), (name, value)]
    )
    producer.flush(START_S)


# --- with an outside system


def a_crash_before_an_intent_is_committed(world: World) -> None:
    """Killed before the first commit; whoever called already has an effect that nobody remembers."""
    world.publish([("o1", 1), ("o2", 1)])
    child = world.start("before-commit:1:wait-kill")
    world.until_hit(child)
    world.holds_within(lambda: _invoices(world) == 2, CALL_S)
    (world.folder / "go").touch()
    child.wait(START_S)
    _to_rest(world)


def replies_that_are_lost(world: World) -> None:
    """Billing makes the invoice, and its answer does not arrive, three times."""
    rule = {"kind": "apply-then-lose-reply", "times": 3}
    SandboxControl(world.sandbox).order_faults("billing", rule)
    world.publish(events(1, 1))
    _to_rest(world)


def _invoices(world: World) -> int:
    if world.books is None:
        raise ChaosError(f"{world.stage}: a scenario with an outside system needs its books")
    with Books(world.books) as books:
        return len(books.effects(kind="invoice"))
