"""Worker processes are killed at random: nothing is lost, and only what was in flight runs again."""

import asyncio
from typing import Final

import pytest

from tests.chaos.trial import Trial
from tests.processes.fleet import Replica

KILLS: Final = [
    pytest.param(2, 50, 2, id="short", marks=pytest.mark.timeout(90)),
    pytest.param(100, 100, 6, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(3600)]),
]


@pytest.mark.parametrize(("kills", "rate", "lease_seconds"), KILLS)
async def test_kill_9_of_random_workers_loses_no_job(
    trial: Trial, kills: int, rate: int, lease_seconds: int
) -> None:
    leases = {"LEASE_SECONDS": lease_seconds, "HEARTBEAT_SECONDS": lease_seconds / 4}
    api, workers = await asyncio.gather(trial.api(), trial.workers(3, **leases))
    async with trial.load(api, rate=rate, seconds=(0.1, 0.6)):
        for _ in range(kills):
            victim = trial.random.choice(workers)
            await held(trial, victim)
            trial.kill(victim)
            workers.remove(victim)
            if kills > len(workers):
                workers += await trial.workers(1, **leases)
    await trial.at_rest()

    waits = trial.orphans_restarted(await trial.rows())
    trial.figures["orphans"] = len(waits)
    trial.figures["slowest_restart_seconds"] = round(max(waits, default=0), 2)
    verdict = await trial.verdict()
    assert waits, "no kill found a job under way"
    assert max(waits) <= lease_seconds + 10
    assert 0 < verdict.duplicated <= verdict.in_flight_at_faults
    assert api.process.poll() is None, api.said()


async def held(trial: Trial, worker: Replica) -> None:
    """Let the worker run jobs for a random while, so that the kill finds some of them begun."""
    await asyncio.sleep(trial.random.uniform(0.2, 1.2))  # when a kill comes is its very dice
    assert worker.process.poll() is None, worker.said()
