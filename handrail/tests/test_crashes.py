"""The crash counter: what is in hand survives the process, and only the record itself is suspected."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from handrail.crashes import LIMIT, Crashes
from handrail.errors import StateError


def end_with(folder: Path, key: str) -> None:
    """A process that is killed with this record in hand."""
    code = (
        "import os, sys, pathlib; from handrail.crashes import Crashes; "
        "Crashes(pathlib.Path(sys.argv[1])).hold(sys.argv[2]); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder), key], check=False).returncode == -9


def test_a_record_is_condemned_after_three_ends_with_it_in_hand_and_no_other_is(tmp_path: Path) -> None:
    for times in range(LIMIT):
        crashes = Crashes(tmp_path)
        assert not crashes.condemned("t/0/7#0"), times
        crashes.close()
        end_with(tmp_path, "t/0/7#0")
    end_with(tmp_path, "t/0/8#0")
    crashes = Crashes(tmp_path)
    assert crashes.condemned("t/0/7#0")
    assert not crashes.condemned("t/0/8#0")
    assert not crashes.condemned("t/0/7#1"), "its replay begins anew"
    crashes.close()


def test_what_was_put_down_is_not_suspected(tmp_path: Path) -> None:
    for _ in range(LIMIT):
        crashes = Crashes(tmp_path)
        crashes.hold("a")
        crashes.free()
        crashes.close()
    crashes = Crashes(tmp_path)
    assert not crashes.suspects
    crashes.close()


def test_a_condemned_record_stays_so_until_it_is_behind_us(tmp_path: Path) -> None:
    for _ in range(LIMIT):
        end_with(tmp_path, "a")
    end_with(tmp_path, "b")
    one = Crashes(tmp_path)
    assert one.condemned("a")
    one.forget(["a", "never seen"])
    one.close()
    two = Crashes(tmp_path)
    assert not two.condemned("a")
    assert two.suspects, "b was counted once"
    two.close()


def test_a_record_that_stands_twice_in_one_batch_is_forgotten_once(tmp_path: Path) -> None:
    """A replay that was given twice; found by the model."""
    end_with(tmp_path, "a")
    crashes = Crashes(tmp_path)
    crashes.forget(["a", "a"])
    assert not crashes.suspects
    crashes.close()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"a": "many"}', b"\xff\xfe"])
def test_a_broken_file_of_counts_only_means_that_counting_begins_again(tmp_path: Path, content: bytes) -> None:
    Crashes(tmp_path).close()
    (tmp_path / "counts.json").write_bytes(content)
    (tmp_path / "in-hand").write_bytes(b"short")
    crashes = Crashes(tmp_path)
    assert not crashes.condemned("a")
    crashes.close()


def test_a_very_long_name_is_cut_and_not_an_error(tmp_path: Path) -> None:
    end_with(tmp_path, "k" * 5_000)
    crashes = Crashes(tmp_path)
    assert crashes.suspects
    crashes.close()


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file"):
        Crashes(tmp_path / "file" / "crashes")
