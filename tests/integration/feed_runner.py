"""Monitor's feed in a process of its own, because Faust makes event loops that it does not close.

`python feed_runner.py <bootstrap> <folder> <stats from, ms>`: tells each thing as a line of JSON, begins anew when a line
`again` comes, ends with its standard input. Exit code 1 when the feed's thread did not end.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import structlog
from handrail_monitor.feed import Feed
from handrail_monitor.hearing import Raw


def main(bootstrap: str, folder: str, since: str) -> int:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    lock = threading.Lock()

    def tell(kind: str, what: object) -> None:
        with lock:
            print(json.dumps([kind, what]), flush=True)  # noqa: T201

    feed = Feed(
        bootstrap,
        Path(folder),
        understand=lambda raw: raw,
        stats_from=lambda: int(since),
        restored=lambda said: tell("restored", [_shown(raw) for raw in said]),
        heard=lambda raw: tell("heard", _shown(raw) if raw else None),
        busy=lambda: tell("busy", None),
        failed=lambda error: tell("failed", str(error)),
    )
    feed.start()
    for line in sys.stdin:
        if line.strip() == "again":
            feed.again()
    feed.close()
    return int(feed.is_alive())


def _shown(raw: Raw) -> list[str]:
    topic, _, value = raw
    return [topic, (value or b"").decode("latin-1")]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
