"""SIGTERM with every slot full: the process ends in time and gives back what it has not finished."""

import time
from collections import Counter
from typing import Final

import pytest

from tests.chaos.ledger import Event
from tests.chaos.trial import PROBE, Trial
from tests.processes.fleet import Replica, until

SLOTS: Final = 20
LASTING: Final = 10
"""Jobs that no grace is long enough for."""
GRACE_SECONDS: Final = 1.0
QUICK_SECONDS: Final = (0.5, 0.8)
"""Jobs that are still under way when the last has begun, and end within the grace."""
LATE_SECONDS: Final = 2.0
STOPS: Final = [
    pytest.param(2, id="short", marks=pytest.mark.timeout(90)),
    pytest.param(100, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(3600)]),
]

BURNT: Final = """
SELECT count(*) FROM jobs_live WHERE status <> 'PENDING' OR attempts <> 0 OR lost_leases <> 0
  OR errors IS NOT NULL OR lease_until IS NOT NULL"""


@pytest.mark.parametrize("stops", STOPS)
async def test_sigterm_with_full_slots_ends_in_time_and_counts_no_attempt(
    trial: Trial, stops: int
) -> None:
    environment: dict[str, object] = {
        "SHUTDOWN_GRACE_SECONDS": GRACE_SECONDS,
        "WORKER_CONCURRENCY": SLOTS,
    }
    connection = await trial.connect()
    took: list[float] = []
    given_back = 0
    await trial.enqueue("chaos.gated", [{}] * LASTING)
    for _ in range(stops):
        process = trial.spawn(module=PROBE, **environment)
        await process.ready()
        await under_way(trial, process, LASTING)
        seconds = [trial.random.uniform(*QUICK_SECONDS) for _ in range(SLOTS - LASTING)]
        await trial.enqueue("chaos.steady", [{"seconds": one} for one in seconds])
        await under_way(trial, process, SLOTS)
        began = time.monotonic()
        with trial.fault("sigterm", process.pid):
            assert running(trial, process) == SLOTS
            code = await process.terminate()
        took.append(time.monotonic() - began)
        assert code == 0, process.said()
        assert await connection.fetchval(BURNT) == 0
        given_back += await connection.fetchval("SELECT count(*) FROM jobs_live")

    trial.ledger.open_gate()
    await trial.workers(1)
    await trial.at_rest()
    once = "SELECT count(*) FROM background_jobs WHERE attempts <> 1 OR errors IS NOT NULL"
    assert await connection.fetchval(once) == 0
    await connection.close()
    trial.figures["given_back"] = given_back
    trial.figures["slowest_exit_seconds"] = round(max(took), 2)
    verdict = await trial.verdict()
    assert verdict.duplicated == 0
    assert given_back == stops * LASTING
    assert max(took) <= GRACE_SECONDS + LATE_SECONDS


async def under_way(trial: Trial, process: Replica, count: int) -> None:
    """Wait until so many handlers of the process have begun and not ended."""

    async def enough() -> bool:
        return running(trial, process) == count

    await until(enough, 20, what=f"{count} jobs under way")


def running(trial: Trial, process: Replica) -> int:
    """How many handlers of the process have begun and not ended."""
    events = Counter(note.event for note in trial.ledger.notes() if note.pid == process.pid)
    return events[Event.START] - events[Event.END]
