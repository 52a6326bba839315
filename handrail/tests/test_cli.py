"""The `handrail` command gathers what the rooms bring, and loads no more than what is asked for."""

from __future__ import annotations

import pytest
import typer
from handrail.cli import build


def names(app: typer.Typer) -> set[str]:
    return set(typer.main.get_group(app).commands)


def test_a_command_that_is_asked_for_is_the_only_one_that_is_loaded() -> None:
    assert names(build("check")) == {"check"}
    assert names(build("contracts")) == {"contracts"}


@pytest.mark.parametrize("asked", [None, "--help", "no-such-command", ""])
def test_all_commands_are_there_when_none_of_them_is_asked_for(asked: str | None) -> None:
    assert names(build(asked)) >= {"check", "contracts", "dlq", "measures", "trace", "up"}
