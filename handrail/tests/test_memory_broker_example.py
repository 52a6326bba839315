"""The example in CONTRIBUTING.md is a test that runs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "flows/order-to-invoice/v1/tests/test_order_to_invoice_v1_on_the_twin.py"


def test_the_example_of_a_flow_on_the_twin_is_the_one_that_is_run() -> None:
    block = (ROOT / "CONTRIBUTING.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert block.startswith("def test_")
    assert block in EXAMPLE.read_text()
