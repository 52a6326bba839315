"""What a person sees of the demo: a bar for long work, and one line for each thing that happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_PLAIN_EVERY_S = 5.0


class Screen:
    """Bars on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        """One thing that happened, with the seconds since the start."""
        self._console.print(
            f"[dim]{time.monotonic() - self._started:6.1f} s[/]  {text}", highlight=False, soft_wrap=True
        )

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A bar; call what it gives with (how many so far, a note)."""
        if not self._console.is_terminal:
            yield self._plain(what, total)
            return
        columns = (TextColumn(f"{what:>10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(
            *columns, TextColumn("[dim]{task.fields[note]}"), console=self._console, transient=True
        ) as progress:
            task = progress.add_task(what, total=total, note="")
            yield lambda done, note: progress.update(task, completed=done, note=note)

    def _plain(self, what: str, total: int) -> Callable[[int, str], None]:
        last = 0.0

        def update(done: int, note: str) -> None:
            nonlocal last
            if time.monotonic() - last >= _PLAIN_EVERY_S:
                last = time.monotonic()
                self.say(f"{what} {done} of {total}  {note}")

        return update
