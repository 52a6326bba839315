"""Deliberately broken builds, each in a fixed scenario: the correct build passes it, the mutant must be caught.

A patch in patches/ begins with a line that says what it breaks. It is applied to a copy of the code; the processes of the
scenario run from there, and the checker is always that of this build.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from handrail.errors import HandrailError
from handrail.local.kafka import LocalKafka
from handrail.local.ports import free_port
from handrail_demo.breaks import patched_copy
from handrail_sandbox.client import running_sandbox

from handrail_chaos import scenario
from handrail_chaos.checker import Check, Verdict, check
from handrail_chaos.errors import ChaosError
from handrail_chaos.evidence import Role
from handrail_chaos.scenario_world import World

PATCHES = Path(__file__).parent / "patches"
AT_ONCE = 2
"""Scenarios mostly wait. Each has a thread of its own, which lives as long as its processes do."""

_SEEN = 100


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken build (patches/<name>.patch), its scenario, and the checks that it must be caught by."""

    name: str
    scenario: scenario.Scenario
    by: tuple[Check, ...]
    kind: Role = Role.COPY

    @property
    def patch(self) -> Path:
        """Its file."""
        return PATCHES / f"{self.name}.patch"

    @property
    def about(self) -> str:
        """The first line of its patch."""
        return self.patch.read_text(encoding="utf-8").splitlines()[0]


MUTANTS = (
    Mutant("dedupe-off", scenario.copies, (Check.TWICE,)),
    Mutant("offsets-outside-the-transaction", scenario.killed_before_a_commit, (Check.LOST,)),
    Mutant("tables-before-the-commit", scenario.killed_before_a_commit, (Check.LOST,)),
    Mutant("outputs-outside-the-transaction", scenario.killed_before_a_commit, (Check.TWICE,)),
    Mutant(
        "restore-to-the-read-committed-end", scenario.an_open_transaction_while_restoring, (Check.TWICE, Check.TORN)
    ),
    Mutant("no-rewind-after-an-abort", scenario.a_refused_commit, (Check.LOST,)),
    Mutant("no-catching-up-after-an-abort", scenario.an_unknown_commit, (Check.TWICE,)),
    Mutant("no-fencing", scenario.a_zombie, (Check.TWICE,)),
    Mutant("a-key-is-not-held-back", scenario.a_key_that_waits, (Check.ORDER,)),
    Mutant("dead-letters-dropped", scenario.what_can_not_be_handled, (Check.LOST, Check.TORN)),
    Mutant("a-replay-of-any-generation", scenario.a_replay_that_comes_twice, (Check.TWICE,)),
    Mutant("a-call-before-its-intent", scenario.a_crash_before_an_intent_is_committed, (Check.TWICE,), Role.ACTION),
    Mutant("an-unknown-outcome-repeated", scenario.replies_that_are_lost, (Check.TWICE,), Role.ACTION),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What the checker said to one scenario with the correct build and with the mutant."""

    mutant: Mutant
    correct: Verdict
    broken: Verdict
    seconds: float

    @property
    def caught(self) -> bool:
        """By the checks that are meant to."""
        return set(self.mutant.by) <= set(self.broken.caught)

    @property
    def seen(self) -> str:
        """The first thing that the meant check found."""
        found = getattr(self.broken, self.mutant.by[0]) or next(
            (getattr(self.broken, name) for name in self.broken.caught), ()
        )
        return f"{found[0].name}: {found[0].why}" if found else "nothing"

    def wrong(self) -> str:
        """Why this is no proof; empty when it is one."""
        if not self.correct.holds:
            first = next(getattr(self.correct, name)[0] for name in self.correct.caught)
            return f"the correct build fails, {self.correct.line()}: {first.name}: {first.why}"
        return "" if self.caught else f"not caught by {', '.join(self.mutant.by)}: {self.broken.line()}"


class Bench:
    """One broker for all scenarios. Each has a stage, topics, books and a folder of its own."""

    def __init__(self, bootstrap: str, project: Path, folder: Path, suffix: str = "") -> None:
        """`suffix` is for a broker that has more than one bench in its life."""
        self._bootstrap, self._project, self._folder, self._suffix = bootstrap, project, folder, suffix

    def judge(self, mutant: Mutant) -> Result:
        """First the correct build, then the broken one. Raises ChaosError and DemoError."""
        begun = time.monotonic()
        correct = self.verdict(mutant, ())
        path = patched_copy(mutant.patch, self._project, self._folder / "broken" / mutant.name)
        return Result(mutant, correct, self.verdict(mutant, path), time.monotonic() - begun)

    def outcome(self, mutant: Mutant) -> Result | str:
        """The same; words where the scenario itself failed."""
        try:
            return self.judge(mutant)
        except HandrailError as error:
            return f"{mutant.name}: its scenario failed: {error}"

    def verdict(self, mutant: Mutant, path: Sequence[Path]) -> Verdict:
        """The scenario, with a build."""
        stage = f"{mutant.name}-{'broken' if path else 'correct'}{self._suffix}"
        folder = self._folder / stage
        with self._outside(mutant, folder.with_suffix(".sqlite")) as (url, books):
            world = World(self._bootstrap, self._project, folder, stage, mutant.kind, path, url, books)
            try:
                mutant.scenario(world)
                return check(world.evidence())
            finally:
                world.close()

    @contextmanager
    def _outside(self, mutant: Mutant, db: Path) -> Iterator[tuple[str, Path | None]]:
        if mutant.kind is not Role.ACTION:
            yield "", None
            return
        with running_sandbox(db) as sandbox:
            if not sandbox.ready():
                raise ChaosError("the sandbox of the scenario does not answer")
            yield sandbox.url, db


def chosen(only: str | None) -> tuple[Mutant, ...]:
    """All, or the one of this name. Raises ChaosError."""
    found = tuple(mutant for mutant in MUTANTS if only in (None, mutant.name))
    if not found:
        raise ChaosError(f"there is no mutant {only!r}; there are {', '.join(each.name for each in MUTANTS)}")
    return found


def main(only: str | None = None, *, as_json: bool = False, project: Path | None = None) -> int:
    """Judge them all; tells of each, and ends with `MUTANTS caught=N/N`. The exit code: 0 when all is as it must be."""
    folder = Path(tempfile.mkdtemp(prefix="handrail-mutants-"))
    kafka = LocalKafka(folder / "kafka", free_port())
    results: list[Result] = []
    try:
        mutants = chosen(only)
        kafka.start()
        bench = Bench(kafka.bootstrap, (project or Path.cwd()).absolute(), folder)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for result in pool.map(bench.outcome, mutants):
                if isinstance(result, Result):
                    results.append(result)
                if not as_json or isinstance(result, str):
                    typer.echo(_told(result), err=isinstance(result, str))
    except HandrailError as error:
        typer.echo(str(error), err=True)
        return 2
    finally:
        kafka.stop()
    good = [result for result in results if not result.wrong()]
    if as_json:
        typer.echo(json.dumps([_json(result) for result in results], indent=2))
    right = len(good) == len(mutants)
    if right:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        typer.echo(f"logs and Kafka's data are in {folder}", err=True)
    if not as_json:
        typer.echo(f"MUTANTS caught={len(good)}/{len(mutants)}")
    return 0 if right else 1


def _told(result: Result | str) -> str:
    """One mutant: by what it was caught, what was seen, and how long both builds took."""
    if isinstance(result, str):
        return result
    by = "+".join(f"{name}={len(getattr(result.broken, name))}" for name in result.broken.caught) or "nothing"
    seen = result.seen if len(result.seen) <= _SEEN else result.seen[: _SEEN - 1] + "…"
    return f"{result.mutant.name:<34} {by:<30} {result.seconds:4.0f} s  {result.wrong() or seen}"


def _json(result: Result) -> dict[str, object]:
    return {
        "mutant": result.mutant.name,
        "about": result.mutant.about,
        "caught": not result.wrong(),
        "correct": result.correct.line(),
        "broken": result.broken.line(),
        "by": list(result.broken.caught),
        "seen": result.seen,
        "wrong": result.wrong(),
        "seconds": round(result.seconds, 1),
    }
