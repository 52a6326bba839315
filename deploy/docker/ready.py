"""A container's health: whether the process says that it is ready, where HANDRAIL_HTTP has it answer. Exit code 0 if so."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

WITHIN_S = 3.0


def ask(port: str) -> tuple[int, str]:
    """The exit code, and what it says (Docker keeps that: `docker inspect`)."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=WITHIN_S) as answer:
            return 0, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return 1, error.read().decode()
    except OSError as error:
        return 1, f"does not answer: {error}\n"


if __name__ == "__main__":
    code, said = ask(os.environ["HANDRAIL_HTTP"].rpartition(":")[2])
    sys.stdout.write(said)
    sys.exit(code)
