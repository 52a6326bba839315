"""Tasks that are to end do end, also those that lose the first cancellation."""

from __future__ import annotations

import asyncio

import pytest
from handrail.cancelling import cancelled

from handrail import cancelling


async def stubborn(times: int) -> None:
    """Loses so many cancellations, as `asyncio.wait_for` does when an answer comes at the same moment."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            times -= 1
            if times < 0:
                raise


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_task_that_loses_cancellations_is_cancelled_again_until_it_ends(times: int) -> None:
    tasks = [asyncio.create_task(stubborn(lost)) for lost in (times, 0)]
    await asyncio.sleep(0)
    await cancelled(*tasks)
    assert all(task.cancelled() for task in tasks)


async def test_a_task_that_has_ended_keeps_what_it_raised() -> None:
    async def fails() -> None:
        raise ValueError("its own")

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    await cancelled(task)
    with pytest.raises(ValueError, match="its own"):
        task.result()


async def test_one_that_never_ends_does_not_hold_up_the_others_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "GIVE_UP_S", 0.3)
    task = asyncio.create_task(stubborn(20))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await cancelled(task)
    assert not task.done()
    monkeypatch.undo()
    await cancelled(task)
