"""A consumer group of the twin: static members by instance id, generations, and the eager rebalance with `range`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from handrail.errors import Aborted, Fenced

UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Membership:
    """What a member shows when it commits. Kafka does not fence a generation of -1: nobody has joined yet."""

    generation: int
    member: str


@dataclass(slots=True)
class _Member:
    id: str
    joined: bool


class Group:
    """Members by their `group.instance.id`. A rebalance is over when each has let go of its partitions and joined again."""

    def __init__(self, name: str, partitions: Callable[[], int]) -> None:
        self.name = name
        self.generation = 0
        self._partitions = partitions
        self._members: dict[str, _Member] = {}
        self._shares: dict[str, tuple[int, ...]] = {}
        self._ids = 0

    @property
    def stable(self) -> bool:
        """Whether no rebalance is under way."""
        return all(member.joined for member in self._members.values())

    def share(self, instance: str) -> tuple[int, ...]:
        """The partitions of a member in this generation."""
        return self._shares.get(instance, ())

    def join(self, instance: str) -> str:
        """A process joins; its member id.

        With an instance id that is known (a restart) it takes over the place without a rebalance; the older process is
        fenced.
        """
        self._ids += 1
        known = instance in self._members
        if not known:
            self.rebalance()
        steady = known and self.stable
        self._members[instance] = _Member(f"{instance}#{self._ids}", joined=True)
        if not steady:
            self._settle()
        return self._members[instance].id

    def must_rejoin(self, instance: str) -> bool:
        """Whether a rebalance waits for this member."""
        return not self._members[instance].joined

    def rejoin(self, instance: str) -> None:
        """It has let go of its partitions."""
        self._members[instance].joined = True
        self._settle()

    def rebalance(self) -> None:
        """Everybody must let go and join again; the generation changes when the last one has."""
        for member in self._members.values():
            member.joined = False

    def expel(self, instance: str) -> None:
        """Its session timed out: the others share its partitions as soon as they have joined again."""
        if self._members.pop(instance, None) is not None:
            self.rebalance()

    def knows(self, instance: str, member: str) -> bool:
        """Whether this process is a member. Raises Fenced when another process has its instance id."""
        found = self._members.get(instance)
        if found is not None and found.id != member:
            raise Fenced(f"{self.name}: another process is {instance} now")
        return found is not None

    def members(self) -> list[str]:
        """Instance ids."""
        return sorted(self._members)

    def check(self, membership: Membership) -> None:
        """What the broker asks before it takes positions: Raises Aborted or Fenced for those of a zombie."""
        if membership.generation < 0:
            return
        instance = membership.member.rpartition("#")[0]
        if not self.knows(instance, membership.member):
            raise Aborted(f"{self.name}: {membership.member} is no member of the group any more")
        if membership.generation != self.generation:
            raise Aborted(f"{self.name}: generation {membership.generation} is over, {self.generation} is now")

    def _settle(self) -> None:
        if not self.stable:
            return
        self.generation += 1
        each, more = divmod(self._partitions(), len(self._members))
        start = 0
        self._shares = {}
        for number, instance in enumerate(sorted(self._members)):
            count = each + (number < more)
            self._shares[instance] = tuple(range(start, start + count))
            start += count
