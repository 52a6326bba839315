"""Carries out the steps of the plan: each verb is one thing done to processes, the network, Kafka or billing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from handrail_sandbox.client import SandboxControl
from handrail_sandbox.errors import OrderRefusedError

from handrail_chaos.cluster import Broker, Cluster
from handrail_chaos.fleet import Fleet
from handrail_chaos.schedule import BILLING, SANDBOX, Step
from handrail_chaos.stream import POISON_SHARE, Stream
from handrail_chaos.toxiproxy import Toxiproxy

POISON_BURST = 0.15
BACKGROUND: Sequence[Mapping[str, object]] = (
    {"kind": "500", "share": 0.01, "seed": 1_001},
    {"kind": "503", "share": 0.01, "seed": 1_002},
    {"kind": "429", "share": 0.01, "seed": 1_003, "retry_after_s": 1},
    {"kind": "apply-then-lose-reply", "share": 0.01, "seed": 1_004},
    {"kind": "success-but-nothing", "share": 0.005, "seed": 1_005},
    {"kind": "slow", "share": 0.01, "seed": 1_006, "delay_ms": 1_500},
    {"kind": "hang", "share": 0.003, "seed": 1_007, "delay_ms": 4_000},
)
"""What billing does all the time, so that none of it is missed because nothing was called while its turn lasted."""


class Storm:
    """Call `do` with each step when its time has come. `done` counts faults that were really begun, by kind."""

    def __init__(
        self, fleet: Fleet, cluster: Cluster, toxiproxy: Toxiproxy | None, sandbox: SandboxControl, stream: Stream
    ) -> None:
        self.done: Counter[str] = Counter()
        self._fleet, self._cluster, self._sandbox, self._stream = fleet, cluster, sandbox, stream
        self._toxiproxy = toxiproxy
        self._rules: list[Mapping[str, object]] = list(BACKGROUND)
        self._misbehaves = True
        self._verbs: Mapping[str, Callable[[Step], bool | None]] = {
            "kill": lambda step: fleet.kill(f"{step.target}-0"),
            "end": lambda step: fleet.end(f"{step.target}-0"),
            "stop": lambda step: fleet.freeze(f"{step.target}-0", True),
            "go": lambda step: fleet.freeze(f"{step.target}-0", False),
            "join": lambda step: fleet.join(step.target),
            "leave": lambda step: fleet.leave(step.target, step.given["how"]),
            "forget": lambda step: fleet.forget(f"{step.target}-0"),
            "down": self._down,
            "up": lambda _step: fleet.want(f"{SANDBOX}-0", True),
            "cut": lambda step: self._through().cut(step.target, True),
            "mend": lambda step: self._through().cut(step.target, False),
            "toxic": self._toxic,
            "antidote": lambda step: self._through().remove(step.target, step.given["toxic"], step.given["stream"]),
            "broker-kill": lambda step: cluster.kill(self._broker(step)),
            "broker-start": lambda step: cluster.revive(self._broker(step)),
            "broker-stop": lambda step: cluster.freeze(self._broker(step), True),
            "broker-go": lambda step: cluster.freeze(self._broker(step), False),
            "misbehave": self._misbehave,
            "behave": self._behave,
            "poison": lambda _step: self._poison(POISON_BURST),
            "pure": lambda _step: self._poison(POISON_SHARE),
        }

    def do(self, step: Step) -> None:
        """One step. It counts as begun unless there was nobody to do it to, or it only ends what another has begun."""
        happened = self._verbs[step.verb](step)
        if step.verb in _BEGIN and happened is not False:
            self.done[step.fault] += 1

    def order(self) -> None:
        """Tell billing how it misbehaves now: again after it was killed, and where it did not listen."""
        if not self._misbehaves:
            return
        try:
            if self._rules:
                self._sandbox.order_faults(BILLING, *self._rules)
            else:
                self._sandbox.mend(BILLING)
            self._misbehaves = False
        except (OSError, OrderRefusedError):  # it is dead now: tick asks again
            return

    def calm(self) -> None:
        """The storm's time is over: what it has begun and not yet ended, ends. Billing goes on misbehaving."""
        if self._toxiproxy:
            self._toxiproxy.heal()
        self._cluster.heal()
        self._poison(POISON_SHARE)
        self._fleet.want(f"{SANDBOX}-0", True)
        for member in list(self._fleet.members.values()):
            if member.stopped:
                self._fleet.freeze(member.name, False)

    def heal(self) -> None:
        """Nothing misbehaves any more."""
        self.calm()
        for member in list(self._fleet.members.values()):
            if member.ordinal > 0:
                self._fleet.leave(member.service.name, "end")
        self._rules, self._misbehaves = [], True
        self.order()

    # --- verbs

    def _down(self, step: Step) -> bool:
        self._fleet.want(f"{step.target}-0", False)
        return self._fleet.kill(f"{step.target}-0")

    def _toxic(self, step: Step) -> None:
        given = step.given
        self._through().add(step.target, given["toxic"], given["stream"], given["attributes"])

    def _misbehave(self, step: Step) -> None:
        self._rules = [step.given["rule"], *self._rules]  # the first that hits wins
        self._misbehaves = True
        self.order()

    def _behave(self, step: Step) -> None:
        self._rules = [rule for rule in self._rules if rule != step.given["rule"]]
        self._misbehaves = True
        self.order()

    def _poison(self, share: float) -> None:
        self._stream.poison = share

    def _through(self) -> Toxiproxy:
        assert self._toxiproxy is not None, "a plan without a network has no such steps"
        return self._toxiproxy

    def _broker(self, step: Step) -> Broker:
        return next(broker for broker in self._cluster.brokers if broker.name == step.target)


_BEGIN: Sequence[str] = (
    "kill", "end", "stop", "join", "forget", "down", "cut", "toxic", "broker-kill", "broker-stop", "misbehave", "poison",
)  # fmt: skip
