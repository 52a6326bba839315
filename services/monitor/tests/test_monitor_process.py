"""The service as a process, while there is no Kafka: it says so to people, is not ready, and ends when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handrail.local.ports import free_port
from handrail.local.supervisor import SERVICES_END_S
from handrail.testing.sinks import WebhookSink

ROOT = Path(__file__).parents[3]


@contextmanager
def monitor(home: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    places = {
        "HANDRAIL_HOME": str(home),
        "HANDRAIL_BOOTSTRAP": f"127.0.0.1:{free_port()}",
        "HANDRAIL_CONTRACTS": str(ROOT / "contracts"),
        "HANDRAIL_FLOWS": str(ROOT / "flows"),
        "HANDRAIL_SYSTEMS": str(ROOT / "systems"),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "handrail_monitor"],
        env={**os.environ, **places, **env},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(http: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://{http}/ready", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


RESOLVER = """
import socket, threading
asked = socket.getaddrinfo

def getaddrinfo(host, *rest, **more):
    if host == "mute.example":
        print('{"event": "asks a name server"}', flush=True)
        threading.Event().wait()
    return asked(host, *rest, **more)

socket.getaddrinfo = getaddrinfo
"""


def test_a_kafka_that_is_not_there_is_told_and_sigterm_ends_it(tmp_path: Path) -> None:
    """Also while the name server that knows the mail server does not answer."""
    (tmp_path / "sitecustomize.py").write_text(RESOLVER, encoding="utf-8")
    mails = {"SMTP": "mute.example:25", "MAIL_FROM": "handrail@example.com", "MAIL_TO": "ops@example.com"}
    http = f"127.0.0.1:{free_port()}"
    with (
        WebhookSink(500, 200) as sink,
        monitor(
            tmp_path,
            PYTHONPATH=str(tmp_path),
            HANDRAIL_HTTP=http,
            HANDRAIL_MONITOR_WEBHOOK=sink.url,
            **{f"HANDRAIL_MONITOR_{name}": value for name, value in mails.items()},
        ) as process,
    ):
        got = sink.wait(lambda one: "kafka-away" in one["text"], 60)
        assert "What to do: See whether Kafka runs" in got["attachments"][0]["text"]
        assert sink.asked == 2  # the first answer was 500
        status, told = ready(http)
        assert (status, told["ready"]) == (503, False)
        with urllib.request.urlopen(f"http://{http}/metrics", timeout=5) as answer:
            assert 'handrail_service_info{service="monitor"} 1.0' in answer.read().decode()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SERVICES_END_S)
        assert process.returncode == 0, output
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert events.count("alert") == 1
    assert events.count("asks a name server") == 1
    assert events.count("away") == 1  # said once, however often it was tried
    assert "Traceback" not in output


def test_a_wrong_setting_is_said_and_ends_it(tmp_path: Path) -> None:
    began = time.monotonic()
    with monitor(tmp_path, HANDRAIL_MONITOR_WINDOW="soon") as process:
        output, _ = process.communicate(timeout=40)
    assert process.returncode == 2
    [said] = [json.loads(line) for line in output.splitlines()]
    assert said["event"] == "misconfigured"
    assert "HANDRAIL_MONITOR_WINDOW='soon'" in said["why"]
    assert time.monotonic() - began < 40


HEAR = """
import asyncio, sys
from pathlib import Path
from handrail_monitor.feed import build

async def main():
    heard = []
    app = build("127.0.0.1:1,127.0.0.1:2", Path(sys.argv[1]), heard.append, asyncio.get_running_loop())
    assert [str(one) for one in app.conf.broker] == ["aiokafka://127.0.0.1:1", "aiokafka://127.0.0.1:2"], app.conf.broker
    assert (app.conf.topic_allow_declare, app.conf.topic_disable_leader, app.conf.web_enabled) == (False, True, False)
    assert app.conf.id == "monitor"
    [agent] = app.agents.values()
    assert sorted(agent.channel.topics) == ["dead-letters", "recovery.states", "stats", "systems"], agent.channel
    async with agent.test_context() as running:
        await running.put(value=b"\\x00raw", key=b"k")
    assert [each[1:] for each in heard] == [(b"k", b"\\x00raw")], heard

asyncio.run(main())
"""


def test_faust_hands_on_what_comes_as_it_is_and_makes_no_topic(tmp_path: Path) -> None:
    """In a process of its own: Faust makes event loops that it does not close."""
    ran = subprocess.run(
        [sys.executable, "-c", HEAR, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
