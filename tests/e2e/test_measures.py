"""The measures of a real deployment: known failures, duplicates and work by hand come to exactly these figures."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import pytest
from handrail_console.orders import Said, Sender, letter_order, task_order

pytestmark = pytest.mark.kafka
Company = Any
FLOW = "order-to-invoice"
OVER_THE_LIMIT = 34_000_001


class Figures:
    """What `handrail measures` says of the flow, less what it said at first: other tests' runs are of the same flow."""

    def __init__(self, company: Company) -> None:
        self._company = company
        self._before = self._now()

    def _now(self) -> Counter[str]:
        told = self._company.told("measures", "--flow", FLOW, "--since", "1d")["measures"]
        [of_flow] = told or [None]
        return flat(of_flow) if of_flow else Counter()

    def since(self) -> Counter[str]:
        now = self._now()
        now.subtract(self._before)
        return +now

    def reach(self, wanted: dict[str, int]) -> None:
        """Until these figures are at least so high; the ledger follows by itself."""

        def there(_: Any) -> bool:
            now = self.since()
            return all(now[name] >= number for name, number in wanted.items())

        self._company.wait_told(there, "ledger", "status", within_s=60.0)


def flat(told: dict[str, Any]) -> Counter[str]:
    recovery = told["time_to_recovery"]
    times = {one["outcome"]: one for one in told["outcomes"]["times"]}["time-to-invoice"]
    amounts = {(one["outcome"], one["unit"]): one for one in told["outcomes"]["amounts"]}
    return Counter(
        {
            "begun": told["runs"]["begun"],
            **{f"ended.{state}": n for state, n in told["runs"]["by_state"].items()},
            **{f"failed.{name}": n for name, n in told["failed_runs"]["by_class"].items()},
            "open": recovery["still_open"],
            "by replay": recovery["by"].get("replay", 0),
            "stopped": told["duplicate_prevention"]["stopped"],
            "found": told["duplicate_prevention"]["found_later"],
            "by hand": told["manual_fallback"]["by_hand"],
            "invoiced": times["reached"],
            "not invoiced": times["still_open"],
            **{
                f"cents {name}": round(100 * amounts["value-at-risk", "EUR"][name])
                for name in ("done", "under_way", "at_risk", "given_up")
            },
            **{f"orders.{name}": n for name, n in told["work"]["orders_by_what"].items()},
            "minutes": told["work"]["minutes"],
            "reviews": told["upkeep"]["reviews"],
            "minutes of reviews": told["upkeep"]["review_minutes"],
        }
    )


@pytest.mark.timeout(400)
def test_37_failures_of_three_classes_11_duplicates_and_5_by_hand_give_exactly_these_figures(company: Company) -> None:
    """15 break their contract, 12 are refused by billing, 10 find it away for too long and are replayed when it is back.

    The transform service is killed while the duplicates come. Amounts are those of the orders that were sent, and what is
    done of them by the machine stands in billing's own books.
    """
    earlier = company.order()
    company.publish(earlier)
    company.wait_for("done", earlier)
    company.wait_told(lambda told: told["state"] == "done", "runs", "show", company.run_of(earlier))
    figures = Figures(company)
    send = Sender(company.stack.bootstrap, company.contracts)

    good = company.orders(11)
    broken = company.orders(15, currency="eu")
    refused = company.orders(12, customer_id="c" * 201)
    reviewed = company.orders(5, total_minor=OVER_THE_LIMIT)
    company.publish(*good, *broken, *refused, *reviewed)
    company.wait_for("done", *good, within_s=90)
    company.wait_for("failed", *refused, within_s=90)
    company.wait_for("waiting", *reviewed, within_s=90)

    company.sandbox.order_faults("billing", {"kind": "503"})
    away = company.orders(10)
    company.publish(*away)
    company.wait_for("failed", *away, within_s=120)
    company.sandbox.mend("billing")
    letters = [company.letter_of_run(order) for order in away]
    company.onlooker.wait(lambda: all(company.letter_states(one["letter"]) for one in letters), "open letters")
    send([letter_order("replay", one, Said("eve", "billing is back"), one["failed_at"]) for one in letters])
    company.wait_for("done", *away, within_s=90)

    tasks = [company.onlooker.wait(lambda order=order: company.tasks(order), "a task")[0] for order in reviewed]
    send([task_order("done", task, Said("eve", "done in billing's own page", 7), task["at"]) for task in tasks])
    company.wait_for("done-by-hand", *reviewed, within_s=90)

    pid = company.process("transform").pid
    company.publish(*good[:6])
    os.kill(pid, signal.SIGKILL)
    company.publish(*good[6:])
    company.stack.wait_restarted("transform", pid)
    after = [company.order(order_id=order["order_id"], revision=2) for order in good]
    company.publish(*after)  # the same keys: when they are done, what came before them was handled
    company.wait_for("done", *after, within_s=90)

    noted = company.handrail("review", FLOW, "--reason", "the limits are right", "--minutes", "30")
    assert noted.returncode == 0, noted.stderr

    by_machine, in_all = [*good, *away, *after], sum(order["total_minor"] for order in (*good, *away, *after))
    booked = [effect for order in by_machine for effect in company.invoices(order)]
    assert sum(effect.amount_minor or 0 for effect in booked) == in_all
    expected = {
        "begun": 11 + 12 + 5 + 10 + 11,
        "ended.done": 11 + 10 + 11,
        "ended.failed": 12,
        "ended.done-by-hand": 5,
        "failed.contract": 15,
        "failed.business": 12,
        "failed.transient": 10,
        "open": 15 + 12,
        "by replay": 10,
        "stopped": 11,
        "by hand": 5,
        "invoiced": 11 + 10 + 11 + 5,
        "not invoiced": 12,
        "cents done": in_all + 5 * OVER_THE_LIMIT,
        "cents at_risk": sum(order["total_minor"] for order in refused),
        "orders.replay": 10,
        "orders.done": 5,
        "minutes": 5 * 7,
        "reviews": 1,
        "minutes of reviews": 30,
    }
    figures.reach(expected)
    assert figures.since() == Counter(expected)

    rebuilt = company.handrail("ledger", "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert figures.since() == Counter(expected)
