"""`handrail check` and `handrail flow`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from handrail.cli import flows
from handrail.errors import FlowError
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The two commands, on a copy of the project."""
    for name in ("flows", "systems"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("flows.lock"))
        monkeypatch.setenv(f"HANDRAIL_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("HANDRAIL_CONTRACTS", str(ROOT / "contracts"))
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    app.command("check")(flows.check)
    app.add_typer(flows.app, name="flow")
    return app


def run(app: typer.Typer, *args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_a_right_project_passes_and_says_what_it_promises(app: typer.Typer) -> None:
    code, out = run(app, "check")
    assert code == 0
    assert "order-to-invoice v1 invoice: one effect: can be asked conclusively" in out


def test_a_wrong_project_says_where_and_ends_with_2(app: typer.Typer, tmp_path: Path) -> None:
    path = tmp_path / "flows" / "order-to-invoice" / "v1" / "flow.yaml"
    path.write_text(path.read_text().replace("key: order_id", "key: orderid"))
    code, out = run(app, "check")
    assert code == 2
    line = next(number for number, text in enumerate(path.read_text().splitlines(), 1) if "orderid" in text)
    assert f"flows/order-to-invoice/v1/flow.yaml:{line}: orders/order-accepted.v1 has no field `orderid`" in out
    assert "did you mean `order_id`?" in out
    code, out = run(app, "check", "--json")
    assert code == 2
    assert json.loads(out)["problems"][0]["line"] == line


def test_flows_are_listed(app: typer.Typer) -> None:
    _, out = run(app, "flow", "list")
    assert "order-to-invoice" in out
    _, out = run(app, "flow", "list", "--json")
    (row,) = json.loads(out)
    assert (row["flow"], row["version"], row["released"], row["steps"]) == ("order-to-invoice", 1, False, ["invoice"])


def test_a_flow_is_shown_as_written_and_with_every_default(app: typer.Typer) -> None:
    _, out = run(app, "flow", "show", "order-to-invoice", "--json")
    assert "ordering" not in json.loads(out)
    _, out = run(app, "flow", "show", "order-to-invoice", "--resolved", "--json")
    shown = json.loads(out)
    assert (shown["ordering"], shown["people"]["docs"]) == ("key", "billing-ops@example.com")
    assert shown["retry"]["bug"]["times"] == 2
    _, out = run(app, "flow", "show", "order-to-invoice", "--resolved")
    assert "promise: 'one effect: can be asked conclusively'" in out


def test_every_failure_of_a_step_has_an_answer(app: typer.Typer) -> None:
    code, out = run(app, "flow", "failures", "order-to-invoice", "--json")
    assert code == 0
    answers = {(each["place"], each["error_class"]): each["what"] for each in json.loads(out)}
    assert all(answers.values())
    assert "surely not there: tried again" in answers["invoice", "unknown_outcome"]
    assert answers["invoice", "transient"].endswith("apart; then dead letter for billing-ops@example.com")
    _, out = run(app, "flow", "failures", "order-to-invoice")
    assert "a task for billing-ops@example.com by runbook.md" in out


def test_a_version_is_released_once(app: typer.Typer, tmp_path: Path) -> None:
    _, out = run(app, "flow", "release", "order-to-invoice")
    assert out == "order-to-invoice v1 is released\n"
    lock = (tmp_path / "flows" / "flows.lock").read_text()
    assert "order-to-invoice/v1 blake2b:" in lock
    _, out = run(app, "flow", "release", "order-to-invoice", "--json")
    assert json.loads(out) == {"flow": "order-to-invoice", "version": 1, "new": False}
    assert (tmp_path / "flows" / "flows.lock").read_text() == lock
    _, out = run(app, "flow", "list", "--json")
    assert json.loads(out)[0]["released"] is True


def test_a_flow_or_version_that_is_not_there_is_told(app: typer.Typer) -> None:
    with pytest.raises(FlowError, match="did you mean `order-to-invoice`"):
        run(app, "flow", "show", "order-to-invoise")
    with pytest.raises(FlowError, match="there is no version 7"):
        run(app, "flow", "show", "order-to-invoice", "--version", "7")
