"""Tests that mostly wait for timeouts of 15 s: their bodies run side by side, each with topics and processes of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

AT_ONCE = 5
Body = Callable[[Any], None]
Running = Mapping[Body, "Future[None]"]


def story(partitions: int) -> Callable[[Body], Callable[[Running], None]]:
    """Makes a test of a body that takes a CrashWorld with so many partitions. The test waits for the body's end."""

    def made(body: Body) -> Callable[[Running], None]:
        def test(running: Running) -> None:
            running[body].result()

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        test.story = (body, partitions)  # type: ignore[attr-defined]
        return test

    return made


@contextmanager
def started(
    request: pytest.FixtureRequest, folders: pytest.TempPathFactory, make_world: Callable[[str, Path, int], Any]
) -> Iterator[Running]:
    """The bodies of this module's chosen tests, all begun, a few at once. `make_world` takes name, folder, partitions."""
    functions = [getattr(item, "function", None) for item in request.session.items if item.path == request.path]
    chosen = [function.story for function in functions if hasattr(function, "story")]

    def tell(body: Body, folder: Path, partitions: int) -> None:
        world = make_world(f"rules-{time.time_ns()}", folder, partitions)
        try:
            body(world)
        finally:
            world.kill_all()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {body: pool.submit(tell, body, folders.mktemp("world"), partitions) for body, partitions in chosen}
        pool.shutdown(cancel_futures=True)
