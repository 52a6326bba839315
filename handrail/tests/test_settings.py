"""Where a command finds its deployment."""

from __future__ import annotations

from pathlib import Path

import pytest
from handrail.settings import DEFAULT_PORT, Settings


def test_commands_find_the_kafka_of_the_stack_that_runs_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text('{"bootstrap": "127.0.0.1:4711"}')
    assert Settings.from_env({"HANDRAIL_HOME": str(tmp_path)}).bootstrap == "127.0.0.1:4711"


def test_what_the_environment_says_goes_before_what_runs(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_text('{"bootstrap": "127.0.0.1:4711"}')
    env = {"HANDRAIL_HOME": str(tmp_path), "HANDRAIL_BOOTSTRAP": "kafka.example.com:9092"}
    assert Settings.from_env(env).bootstrap == "kafka.example.com:9092"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bootstrap": 7}', "not json"])
def test_a_file_that_says_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "up.json").write_text(text)
    assert Settings.from_env({"HANDRAIL_HOME": str(tmp_path)}).bootstrap == f"127.0.0.1:{DEFAULT_PORT}"


def test_a_ledger_is_a_file_of_the_home_or_the_one_that_is_named_or_a_database() -> None:
    here = Path.cwd()
    assert Settings.from_env({"HANDRAIL_HOME": "x"}).ledger == str(here / "x" / "ledger.sqlite")
    assert Settings.from_env({"HANDRAIL_LEDGER": "y.sqlite"}).ledger == str(here / "y.sqlite")
    assert Settings.from_env({"HANDRAIL_LEDGER": "postgresql://h/d"}).ledger == "postgresql://h/d"
