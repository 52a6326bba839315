"""A name server that does not answer for one name costs one thread, and holds up no other name."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from handrail_monitor.lookups import Loop


class NameServer:
    """Mute about `mute.example` until it is mended; knows the others."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.mended = threading.Event()

    def __call__(self, host: str, port: int, *_: Any) -> list[Any]:
        self.asked.append(host)
        if host == "gone.example":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        if host == "mute.example":
            self.mended.wait(30)
        return [(host, port)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server)
    return server


def run(what: Callable[[Loop], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Loop)

        async def bounded() -> None:
            async with asyncio.timeout(20):
                await what(loop)

        runner.run(bounded())


async def gives_up(loop: Loop, host: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await loop.getaddrinfo(host, 25)


def test_a_mute_name_is_asked_for_once_at_a_time_and_the_others_are_found_meanwhile(names: NameServer) -> None:
    async def story(loop: Loop) -> None:
        for _ in range(50):
            await gives_up(loop, "mute.example")
        assert names.asked == ["mute.example"]
        assert await loop.getaddrinfo("well.example", 80) == [("well.example", 80)]
        names.mended.set()
        assert await loop.getaddrinfo("mute.example", 25) == [("mute.example", 25)]

    run(story)


def test_a_name_that_there_is_not_is_an_error_each_time(names: NameServer) -> None:
    async def story(loop: Loop) -> None:
        for _ in range(2):
            with pytest.raises(socket.gaierror):
                await loop.getaddrinfo("gone.example", 80)
        assert names.asked == ["gone.example"] * 2

    run(story)


def test_the_end_waits_for_no_name_server(names: NameServer) -> None:
    async def story(loop: Loop) -> None:
        await gives_up(loop, "mute.example")

    run(story)
    names.mended.set()  # its answer finds the loop closed, and is dropped
    for thread in threading.enumerate():
        if thread.name == "lookup":
            thread.join(10)
