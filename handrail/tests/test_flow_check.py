"""What `Flows.load` refuses, with file, line and what to write instead."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from handrail.contracts import Contracts
from handrail.errors import FlowError, Problem
from handrail.flow import Flows
from handrail.flow.failures import KEY, ONCE, promise, unanswered
from handrail.flow.lock import release
from handrail.flow.showing import resolved

ROOT = Path(__file__).parents[2]
FLOW = "flows/order-to-invoice/v1/flow.yaml"
LEAST = """flow: order-to-invoice
version: 1
people: {owner: billing-ops@example.com}
purpose: An accepted order becomes exactly one invoice.
trigger: {contract: orders.order-accepted.v1, key: order_id, dedupe: [order_id, revision]}
transform: mapping:to_invoice_request
steps:
  - id: invoice
    call: billing.create-invoice
    verify: {call: billing.get-invoice, expect: response.total_minor == request.total_minor}
manual: {runbook: runbook.md}
"""

WHOLE = """flow: order-to-invoice
version: 1
people: {owner: billing-ops@example.com, rules: credit}
criticality: high
review: 90d
purpose: An accepted order becomes exactly one invoice.
trigger: {contract: orders.order-accepted.v1, key: order_id, dedupe: [order_id, revision]}
transform: mapping:to_invoice_request
decide: rules/credit.yaml
steps:
  - id: invoice
    call: billing.create-invoice
    verify: {call: billing.get-invoice, expect: response.total_minor == request.total_minor}
retry: {transient: {from: 200ms, to: 5s, times: 6}}
manual: {runbook: runbook.md, within: 8h}
segments: [segment]
outcomes:
  time-to-invoice: {until: invoice, within: 1m}
  value-at-risk: {amount: total_minor, unit: currency, scale: 100}
result: orders.order-invoiced.v1
done: mapping:to_order_invoiced
"""


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return Contracts.load(ROOT / "contracts")


class Project:
    """A copy of the project's flows and systems that may be spoilt. The flow file is ours: figures there may change."""

    def __init__(self, folder: Path, contracts: Contracts) -> None:
        self.folder = folder
        self.contracts = contracts
        shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("flows.lock"))
        shutil.copytree(ROOT / "systems", folder / "systems")
        (folder / FLOW).write_text(WHOLE)

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def load(self) -> Flows:
        return Flows.load(self.folder / "flows", self.folder / "systems", self.contracts)

    def problems(self) -> list[Problem]:
        with pytest.raises(FlowError) as caught:
            self.load()
        return caught.value.problems

    def line(self, file: str, text: str) -> int:
        lines = (self.folder / file).read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.fixture
def project(tmp_path: Path, contracts: Contracts) -> Project:
    return Project(tmp_path, contracts)


def test_the_flows_of_this_repository_are_right() -> None:
    flows = Flows.load(ROOT / "flows", ROOT / "systems", Contracts.load(ROOT / "contracts"))
    assert [name for name in flows.names() if unanswered(flows.newest(name))] == []


def test_the_least_form_is_enough(project: Project) -> None:
    (project.folder / FLOW).write_text(LEAST)
    flow = project.load().newest("order-to-invoice")
    assert flow.request_contract == "billing/invoice-request.v1"
    assert (flow.table, flow.result) == (None, None)
    shown = resolved(flow)
    assert shown["on_failure"] == ["dead-letter"]
    assert shown["retry"]["transient"] == {
        "from": "2s",
        "to": "10m",
        "times": 8,
        "within": "1d",
        "then": "dead-letter",
    }


def test_versions_stand_beside_each_other_each_with_its_own_mapping(project: Project) -> None:
    flows = project.folder / "flows" / "order-to-invoice"
    shutil.copytree(flows / "v1", flows / "v2")
    project.edit("flows/order-to-invoice/v2/flow.yaml", "version: 1", "version: 2")
    project.edit("flows/order-to-invoice/v2/mapping.py", "{event['order_id']}/", "{event['order_id']}:")
    loaded = project.load()
    event = {"order_id": "1", "revision": 1, "customer_id": "2", "total_minor": 3, "currency": "EUR"}
    references = []
    for version in loaded.versions("order-to-invoice"):
        flow = loaded.get("order-to-invoice", version)
        assert flow is not None
        references.append(flow.mapping.transform(event)["reference"])
    assert references == ["1/1", "1:1"]
    assert loaded.newest("order-to-invoice").version == 2
    assert loaded.get("order-to-invoice", 3) is None


def test_loading_writes_nothing(project: Project) -> None:
    before = sorted(project.folder.rglob("*"))
    project.load()
    assert sorted(project.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("old", "new", "at", "what"),
    [
        ("people: {owner: billing-ops@example.com, rules: credit}\n", "", None, "`people` is missing"),
        ("owner: billing-ops@example.com", "ownr: x", "people:", "did you mean `owner`?"),
        ("owner: billing-ops@example.com", 'owner: " "', "people:", "a text that is not empty"),
        ("version: 1", "version: one", "version:", "valid integer"),
        ("version: 1", "version: 2", "flow:", "stands in the folder order-to-invoice/v1"),
        ("review: 90d", "review: 90 days", "review:", "write a number and its unit"),
        ("criticality: high", "criticality: hihg", "criticality:", "write 'low' or 'high'"),
        ("orders.order-accepted.v1", "orders.order-acepted.v1", "trigger:", "did you mean `orders/order-accepted.v1`?"),
        ("key: order_id", "key: orderid", "trigger:", "did you mean `order_id`?"),
        ("[order_id, revision]", "[order_id, revisions]", "trigger:", "did you mean `revision`?"),
        ("[order_id, revision]", "[customer_name]", "trigger:", "can't tell runs apart"),
        ("mapping:to_invoice_request", "mapping:to_invoice_reqest", "transform:", "did you mean `to_invoice_request`?"),
        ("mapping:to_invoice_request", "maping:to_invoice_request", "transform:", "there is no maping.py"),
        ("mapping:to_invoice_request", "mapping:to_order_invoiced", "transform:", "must take (event)"),
        (
            "rules/credit.yaml",
            "rules/credits.yaml",
            "decide:",
            "there is no flows/order-to-invoice/v1/rules/credits.yaml",
        ),
        ("rules/credit.yaml", "../rules/credit.yaml", "decide:", "a file in the flow's folder"),
        ("billing.create-invoice", "biling.create-invoice", "call: bil", "did you mean `billing`?"),
        ("billing.create-invoice", "billing.create_invoice", "call: bil", "write it like `billing.create-invoice`"),
        ("billing.create-invoice", "billing.creat-invoice", "call: bil", "did you mean `create-invoice`?"),
        ("billing.get-invoice", "billing.create-invoice", "verify:", "it can't verify"),
        ("billing.get-invoice", "crm.get-deal", "verify:", "only in the system that the step calls"),
        ("response.total_minor ==", "response.total ==", "verify:", "no contract has a field `response.total`"),
        ("== request.total_minor", "== request.currency", "verify:", "can't be used between int and string"),
        (
            "response.total_minor == request.total_minor",
            "response.total_minor",
            "verify:",
            "gives INT, not a yes or no",
        ),
        ("id: invoice", "id: review", "- id:", "name the step otherwise"),
        ("    verify:", "    verif:", "verif:", "did you mean `verify`?"),
        ("from: 200ms", "from: 10s", "retry:", "is less than `from`"),
        ("{transient:", "{poison:", "retry:", "can't be tried again"),
        ("runbook.md", "run.md", "manual:", "there is no flows/order-to-invoice/v1/run.md"),
        ("[segment]", "[segmnt]", "segments:", "did you mean `segment`?"),
        ("until: invoice,", "until: invoise,", "time-to-invoice:", "did you mean `invoice`?"),
        ("until: invoice,", "from: ordered_on, until: invoice,", "time-to-invoice:", "not a `long`, milliseconds"),
        (
            "until: invoice,",
            "until: invoice, unit: currency,",
            "time-to-invoice:",
            "a time has no `unit` and no `scale`",
        ),
        ("until: invoice, within", "within", "time-to-invoice:", "either a time or an amount"),
        ("amount: total_minor,", "amount: total,", "value-at-risk:", "did you mean `total_minor`?"),
        ("amount: total_minor,", "amount: currency,", "value-at-risk:", "is not a number"),
        ("scale: 100", "scale: 0", "value-at-risk:", "greater than or equal to 1"),
        ("unit: currency", "unit: revision", "value-at-risk:", "is not a text"),
        ("unit: currency, scale: 100", "within: 1m", "value-at-risk:", "can't have `from` or `within`"),
        ("value-at-risk:", "value_at_risk:", "value_at_risk:", "write it like"),
        ("done: mapping:to_order_invoiced\n", "", None, "`result` and `done` belong together"),
        ("result: orders.order-invoiced.v1", "result: orders.order-invoiced.v9", "result:", "there is no contract"),
    ],
)
def test_what_is_unclear_is_refused_where_it_stands(
    project: Project, old: str, new: str, at: str | None, what: str
) -> None:
    project.edit(FLOW, old, new)
    matching = [each for each in project.problems() if what in str(each)]
    assert matching, [str(each) for each in project.problems()]
    assert matching[0].file == FLOW
    if at is not None:
        assert matching[0].line == project.line(FLOW, at)


@pytest.mark.parametrize(
    ("addition", "name"),
    [
        ("mode: observe\n", "mode: observe"),
        ("on_failure: [compensate, manual]\n", "compensate"),
        ("serialize: key\n", "serialize"),
        ("rollout: {percent: 10}\n", "rollout"),
        ('pilot: {question: "Does it?"}\n', "pilot"),
        ("schedule: daily\n", "schedule"),
    ],
)
def test_what_this_build_does_not_execute_is_refused(project: Project, addition: str, name: str) -> None:
    path = project.folder / FLOW
    path.write_text(path.read_text() + addition)
    (problem,) = project.problems()
    assert "this build does not execute" in problem.what
    assert name in problem.what
    assert problem.line == len(path.read_text().splitlines())


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("call: billing.create-invoice\n", "call: billing.create-invoice\n    undo: billing.void\n", "steps.undo"),
        ("call: billing.create-invoice\n", "call: billing.create-invoice\n    needs: [x]\n", "steps.needs"),
        ("steps:\n", "steps:\n  - {id: mail, flow: send-mail}\n", "steps.flow"),
        ("key: order_id,", "sources: [{webhook: shop}], key: order_id,", "trigger.sources"),
        ("steps:\n", "steps:\n  - {id: ok, approval: {group: a, four_eyes: true}}\n", "steps.approval.four_eyes"),
    ],
)
def test_parts_of_steps_that_this_build_does_not_execute_are_refused(
    project: Project, old: str, new: str, name: str
) -> None:
    project.edit(FLOW, old, new)
    assert [each.what for each in project.problems()] == [f"this build does not execute `{name}` yet"]


def test_every_problem_of_every_file_is_told_at_once(project: Project) -> None:
    project.edit(FLOW, "response.total_minor ==", "response.totl_minor ==")
    project.edit(FLOW, "key: order_id", "key: orderid")
    project.edit("flows/order-to-invoice/v1/rules/credit.yaml", "event.total_minor > 34000000", "event.total > 1")
    project.edit("systems/crm.yaml", "method: GET", "method: FETCH")
    files = [each.file for each in project.problems()]
    assert files == [FLOW, FLOW, "flows/order-to-invoice/v1/rules/credit.yaml", "systems/crm.yaml"]


def test_a_mistake_in_a_block_expression_has_its_own_line(project: Project) -> None:
    line = "{call: billing.get-invoice, expect: response.total_minor == request.total_minor}"
    block = "\n      call: billing.get-invoice\n      expect: |\n        response.total_minor == 1\n        && response.nope"
    project.edit(FLOW, line, block)
    (problem,) = project.problems()
    assert problem.line == project.line(FLOW, "response.nope")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("flow: [1, 2", 1, "it is not YAML"),
        ("flow: a\nflow: b\n", 2, "stands here twice"),
        ("flow: &a x\npurpose: *a\n", 1, "alias"),
        ("flow: !!python/name:os.system x\n", 1, "the tag"),
        ("", 1, "the file is empty"),
        ("just a text", 1, "must have keys of its own"),
    ],
)
def test_yaml_that_can_not_be_read_is_told_with_its_line(project: Project, text: str, line: int, what: str) -> None:
    (project.folder / FLOW).write_text(text)
    problems = project.problems()
    assert any(what in each.what and each.line == line for each in problems), problems


def test_words_that_older_yaml_reads_as_something_else_stay_words(project: Project) -> None:
    project.edit(FLOW, "rules: credit", "rules: no")
    assert project.load().newest("order-to-invoice").people.rules == "no"


def test_bytes_that_are_no_text_are_a_problem_of_the_file(project: Project) -> None:
    (project.folder / FLOW).write_bytes(b"\xff\xfe\x00")
    assert "can't be read" in project.problems()[0].what


def test_a_mapping_that_does_not_load_is_told_with_its_line(project: Project) -> None:
    project.edit("flows/order-to-invoice/v1/mapping.py", "from typing import Any", "from typing import Any\n1 / 0")
    (problem,) = project.problems()
    assert problem.file == "flows/order-to-invoice/v1/mapping.py"
    assert problem.line == project.line(problem.file, "1 / 0")
    assert "ZeroDivisionError" in problem.what


def test_a_call_that_takes_another_contract_needs_a_mapping(project: Project) -> None:
    project.edit(FLOW, "transform:", "request: orders.order-invoiced.v1\ntransform:")
    assert any("give the step a `with: mapping:function`" in each.instead for each in project.problems())


def test_a_critical_flow_must_verify_and_another_is_warned(project: Project) -> None:
    verify = "    verify: {call: billing.get-invoice, expect: response.total_minor == request.total_minor}\n"
    project.edit(FLOW, verify, "")
    assert "is not verified" in project.problems()[0].what
    project.edit(FLOW, "criticality: high", "criticality: low")
    loaded = project.load()
    assert any("is not verified" in each.what for each in loaded.warnings)
    flow = loaded.newest("order-to-invoice")
    assert promise(flow, flow.step("invoice")) == ONCE


def test_a_system_that_honours_keys_promises_one_effect(project: Project) -> None:
    project.edit("systems/billing.yaml", "idempotency: ignored", "idempotency: honoured")
    flow = project.load().newest("order-to-invoice")
    assert promise(flow, flow.step("invoice")) == KEY


def test_a_released_version_that_changed_is_refused(project: Project) -> None:
    flows = project.folder / "flows"
    assert release(flows, "order-to-invoice", 1) is True
    assert release(flows, "order-to-invoice", 1) is False
    assert project.load().warnings == ()
    project.edit("flows/order-to-invoice/v1/runbook.md", "Owner:", "The owner:")
    project.load()
    project.edit("flows/order-to-invoice/v1/rules/credit.yaml", "34000000", "34000001")
    (problem,) = project.problems()
    assert "its files have changed" in problem.what
    assert "make it in v2" in problem.instead
    with pytest.raises(FlowError, match="have changed"):
        release(flows, "order-to-invoice", 1)


def test_a_released_version_that_is_gone_is_refused(project: Project) -> None:
    release(project.folder / "flows", "order-to-invoice", 1)
    shutil.rmtree(project.folder / "flows" / "order-to-invoice")
    assert "is gone" in project.problems()[0].what


def test_a_lock_that_was_edited_is_told_with_its_line(project: Project) -> None:
    (project.folder / "flows" / "flows.lock").write_text("# head\norder-to-invoice/v1 sha1:123\n")
    (problem,) = project.problems()
    assert (problem.file, problem.line) == ("flows/flows.lock", 2)


def test_a_flow_that_is_not_there_is_named_with_the_nearest(project: Project) -> None:
    with pytest.raises(FlowError, match="did you mean `order-to-invoice`"):
        project.load().newest("order-to-invoices")


def test_a_flow_may_expect_events_and_say_whom_to_tell(project: Project) -> None:
    with (project.folder / FLOW).open("a") as file:
        file.write('expect: {at_least: 20, per: 1h, hours: "08:00-20:00"}\n')
        file.write(
            "alerts: {to: slack:billing, when: {failed_rate: {above: 0.02}, oldest_dead_letter: {above: 30m}}}\n"
        )
    told = project.load().newest("order-to-invoice").definition
    assert told.expect is not None
    assert (told.expect.at_least, told.expect.per_ms, told.expect.hours) == (20, 3_600_000, "08:00-20:00")
    assert told.alerts.to == "slack:billing"
    assert told.alerts.when.failed_rate is not None
    assert (told.alerts.when.failed_rate.above, told.alerts.when.failed_rate.over_ms) == (0.02, 300_000)
    assert told.alerts.when.oldest_dead_letter is not None
    assert told.alerts.when.oldest_dead_letter.above_ms == 1_800_000


@pytest.mark.parametrize(
    "addition",
    [
        "expect: {at_least: 0, per: 1h}",
        "expect: {at_least: 1, per: 2d}",
        'expect: {at_least: 1, per: 1h, hours: "8-20"}',
        "alerts: {to: slack}",
        "alerts: {to: 'mail:nobody'}",
        "alerts: {when: {failed_rate: {above: 2}}}",
        "alerts: {when: {failed_rate: {above: 0.1, over: 2h}}}",
        "alerts: {when: {lag: {above: 10}}}",
    ],
)
def test_an_expectation_or_alert_that_means_nothing_is_refused(project: Project, addition: str) -> None:
    with (project.folder / FLOW).open("a") as file:
        file.write(addition + "\n")
    assert project.problems()
