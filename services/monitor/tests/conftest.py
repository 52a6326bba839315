"""Makes `monitor_world` importable by the tests beside it, and has the real contracts."""

import sys
from pathlib import Path

import pytest
from handrail.contracts import Contracts

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def contracts() -> Contracts:
    return Contracts.load(Path(__file__).parents[3] / "contracts")
