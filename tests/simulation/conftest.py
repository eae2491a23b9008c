"""The engine under the virtual clock, for the length of a test."""

import pytest

from tests.simulation.simulator import Simulator


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Simulator:
    return Simulator(monkeypatch)
