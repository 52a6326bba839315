"""The deliberately broken builds: a break that breaks nothing would prove nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from handrail_demo.breaks import PATCHES, broken_copy, names
from handrail_demo.errors import DemoError

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", names())
def test_each_patch_applies_and_changes_the_files_that_it_names(name: str, tmp_path: Path) -> None:
    broken_copy(name, PROJECT, tmp_path / "broken")
    named = [line[6:] for line in (PATCHES / f"{name}.patch").read_text().splitlines() if line.startswith("+++ b/")]
    assert named
    for path in named:
        assert (tmp_path / "broken" / path).read_bytes() != (PROJECT / path).read_bytes()


def test_a_copy_inside_the_repository_is_broken_too() -> None:
    into = PROJECT / ".handrail" / "test-broken"
    broken_copy("dedupe", PROJECT, into)
    admission = "handrail/src/handrail/admission.py"
    assert (into / admission).read_bytes() != (PROJECT / admission).read_bytes()


def test_an_unknown_break_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="dedupe"):
        broken_copy("nothing", PROJECT, tmp_path / "broken")
