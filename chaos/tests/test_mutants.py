"""The kept patches apply to the code as it is, break code that is run, and say by which rule; one of them is caught here."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest
from handrail.testing.broker import Broker
from handrail_chaos.checker import Check
from handrail_chaos.errors import ChaosError
from handrail_chaos.mutants import MUTANTS, PATCHES, Bench, Mutant, Result, chosen
from handrail_demo.breaks import patched_copy

ROOT = Path(__file__).parents[2]
NAMES = [mutant.name for mutant in MUTANTS]


def code_of(file: Path) -> str:
    """What the file does: its syntax without comments, docstrings and places."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.dump(tree)


def test_there_are_ten_mutants_or_more_and_each_patch_has_its_scenario() -> None:
    assert len(MUTANTS) >= 10
    assert sorted(NAMES) == sorted(patch.stem for patch in PATCHES.glob("*.patch"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_each_patch_applies_and_changes_what_the_code_does(mutant: Mutant, tmp_path: Path) -> None:
    patched_copy(mutant.patch, ROOT, tmp_path / "broken")
    changed = []
    for file in (tmp_path / "broken").rglob("*.py"):
        name = file.relative_to(tmp_path / "broken")
        if file.read_bytes() != (ROOT / name).read_bytes() and code_of(file) != code_of(ROOT / name):
            changed.append(name)
    named = set(re.findall(r"^\+\+\+ b/(\S+)", mutant.patch.read_text(encoding="utf-8"), re.MULTILINE))
    assert {str(file) for file in changed} == named


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_each_patch_says_which_section_of_the_guarantees_forbids_it(mutant: Mutant) -> None:
    section = re.search(r"Forbidden by section (\d)", mutant.about)
    assert section is not None
    assert f"## {section[1]}. " in (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def test_a_mutant_that_does_not_exist_is_named_with_those_that_do() -> None:
    assert chosen("dedupe-off") == (MUTANTS[0],)
    with pytest.raises(ChaosError, match="no mutant 'nothing'; there are dedupe-off"):
        chosen("nothing")


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_a_refused_commit_is_made_good_by_the_correct_build_and_not_by_the_one_that_does_not_rewind(
    kafka: Broker, tmp_path: Path
) -> None:
    (mutant,) = chosen("no-rewind-after-an-abort")
    result: Result = Bench(kafka.bootstrap, ROOT, tmp_path, f"-{time.time_ns()}").judge(mutant)
    assert result.correct.holds, result.wrong()
    assert Check.LOST in result.broken.caught
    assert "ended nowhere" in result.seen
    assert result.wrong() == ""
