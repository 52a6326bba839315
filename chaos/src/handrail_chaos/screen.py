"""The demo's screen, with a file of everything that was done when."""

from __future__ import annotations

import time
from pathlib import Path

from handrail_demo.screen import Screen as DemoScreen
from rich.console import Console


class Screen(DemoScreen):
    """Bars and lines for people; all lines, and each step of the storm, also go to `file`."""

    def __init__(self, console: Console, file: Path) -> None:
        super().__init__(console)
        self._file, self._begun = file, time.monotonic()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")

    def say(self, text: str) -> None:
        """One thing that happened."""
        super().say(text)
        self.note(text)

    def note(self, text: str) -> None:
        """For the file only."""
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(f"{time.time():.3f} {time.monotonic() - self._begun:8.1f} s  {text}\n")
