"""The README: its first flow runs as it is written, and shows what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from handrail.local.ports import free_port

PROJECT = Path(__file__).parents[2]
NEEDED = ("contracts", "flows", "systems", "deploy")
LOOKS = ("handrail runs ", "handrail tasks list\n", "python -m handrail_sandbox summary ")
WITHIN_S = 30.0
_BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_VARYING = (
    (re.compile(r"\b[0-9a-f]{8}\b"), "<id>"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "<time>"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min)\b"), "<span>"),
    (re.compile(r"seconds=\d+\.\d"), "seconds=<n>"),
    (re.compile(r"(│ crm +│) \d+ +│"), r"\1 <calls> │"),  # how often it was asked depends on the machine's speed
    (re.compile(r" +"), " "),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One block to paste, and the lines that it shows, in their order; others may stand between them."""

    script: str
    shown: tuple[str, ...]


def first_flow() -> list[Step]:
    """The blocks between the README's two marks."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    part = text.partition("<!-- first-flow:")[2].partition("<!-- /first-flow -->")[0]
    steps: list[Step] = []
    for kind, body in _BLOCK.findall(part):
        if kind == "sh":
            steps.append(Step(body, ()))
        else:
            steps[-1] = Step(steps[-1].script, tuple(body.splitlines()))
    return steps


def masked(line: str) -> str:
    for pattern, name in _VARYING:
        line = pattern.sub(name, line)
    return line.strip()


def missing(shown: tuple[str, ...], output: str) -> str | None:
    """The first line that should be there and is not."""
    have = iter([masked(line) for line in output.splitlines()])
    return next((line for line in shown if masked(line) not in have), None)


@dataclass(frozen=True, slots=True)
class Shell:
    """A reader's terminal in a folder of its own, with ports that nobody uses."""

    folder: Path
    env: dict[str, str]

    def paste(self, script: str) -> str:
        script = script.replace("http://127.0.0.1:18080", self.env["HANDRAIL_SANDBOX_URL"])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
        return done.stdout if done.returncode == 0 else f"{done.stdout}\n[exit code {done.returncode}]"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    for name in NEEDED:
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    sandbox = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("HANDRAIL_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "140",
        "HANDRAIL_BOOTSTRAP": f"127.0.0.1:{free_port()}",
        "HANDRAIL_SANDBOX_PORT": str(sandbox),
        "HANDRAIL_SANDBOX_URL": f"http://127.0.0.1:{sandbox}",
    }
    one = Shell(tmp_path, env)
    yield one
    one.paste("handrail down")


@pytest.mark.kafka
def test_the_first_flow_of_the_readme_works_as_written_and_shows_what_it_says(shell: Shell) -> None:
    steps = first_flow()
    assert len(steps) > 5
    for step in steps:
        until = time.monotonic() + WITHIN_S
        output = shell.paste(step.script)
        # The reader is slower than we are: what looks on may be asked again.
        while step.script.startswith(LOOKS) and missing(step.shown, output) and time.monotonic() < until:
            output = shell.paste(step.script)
        assert "[exit code" not in output, f"{step.script}\n{output}"
        assert missing(step.shown, output) is None, f"{step.script}\n{output}"


def test_every_file_that_the_front_pages_link_to_is_there() -> None:
    pages = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]
    broken = [
        f"{page.relative_to(PROJECT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken


def test_every_test_that_the_guarantees_name_is_there() -> None:
    text = (PROJECT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
    files = [path for path in PROJECT.glob("*/**/test_*.py") if not path.relative_to(PROJECT).parts[0].startswith(".")]
    there = {
        name for path in files for name in re.findall(r"def (test_[a-z0-9_]+)\(", path.read_text(encoding="utf-8"))
    }
    assert named
    assert sorted(named - there) == []
