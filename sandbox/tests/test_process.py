"""The sandbox as a process: how it starts, refuses to start, and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from handrail_sandbox.books import Books
from handrail_sandbox.client import SandboxControl
from handrail_sandbox.server import listen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(*args: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "handrail_sandbox", *args],
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_told(db: Path, told: signal.Signals) -> None:
    port = free_port()
    with start("serve", "--json-logs", HANDRAIL_SANDBOX_PORT=str(port), HANDRAIL_SANDBOX_DB=str(db)) as process:
        assert SandboxControl(f"http://127.0.0.1:{port}").ready()
        process.send_signal(told)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert [json.loads(line)["message"] for line in err.splitlines()] == [
        f"the sandbox is at http://127.0.0.1:{port}, its books are {db}",
        "the sandbox has ended",
    ]


def test_a_port_in_use_is_said_plainly(db: Path) -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        with start("serve", "--port", str(port), "--db", str(db)) as process:
            _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert f"port {port}" in err
    assert "Traceback" not in err


def test_books_that_cant_be_kept_are_said_plainly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with start("serve", "--port", "0", "--db", str(tmp_path / "file" / "sandbox.sqlite")) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "can't be kept at" in err
    assert "Traceback" not in err


def test_what_was_answered_is_in_the_books_after_kill_9(db: Path, make_caller) -> None:
    port = free_port()
    with start("serve", "--port", str(port), "--db", str(db)) as process:
        control = SandboxControl(f"http://127.0.0.1:{port}")
        assert control.ready()
        for number in range(20):
            assert make_caller(control).invoice(f"{number}/1").status == 201
        process.kill()
        process.communicate(timeout=20)
    with Books(db) as books:
        assert len(books.effects_by_reference()) == 20
    with start("summary", "--json", "--db", str(db)) as process:
        out, _ = process.communicate(timeout=20)
    assert json.loads(out)["systems"]["billing"]["effects"]["invoice"]["count"] == 20


def test_a_full_disk_is_a_500_that_did_nothing_and_the_server_goes_on(db: Path, make_caller) -> None:
    port = free_port()
    full = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000));"
        "runpy.run_module('handrail_sandbox', run_name='__main__')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", full, "serve", "--port", str(port), "--db", str(db)], stderr=subprocess.DEVNULL
    ) as process:
        control = SandboxControl(f"http://127.0.0.1:{port}")
        assert control.ready()
        caller = make_caller(control)
        answers = {}
        while 500 not in answers.values():
            answers[f"{len(answers)}/1"] = caller.invoice(f"{len(answers)}/1").status
        assert caller.call("GET", "/_health").status == 200
        process.terminate()
        process.wait(timeout=20)
    with Books(db) as books:
        assert set(books.effects_by_reference()) == {name for name, status in answers.items() if status == 201}


def test_replies_are_not_held_back() -> None:
    with listen(0) as listener:
        assert listener.proto == socket.IPPROTO_TCP, "asyncio would not set TCP_NODELAY"
