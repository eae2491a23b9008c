"""The database stops, and connections are cut: the service comes back by itself, with everything."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.ledger import Event, Note
from tests.chaos.trial import Trial
from tests.processes.fleet import Replica, until

WORKERS: Final = 3
WINDOW_SECONDS: Final = 1.5
"""A rate is back when it holds for so long."""
BACK_SECONDS: Final = 10.0
SHARE: Final = 0.95
GIVE_UP_SECONDS: Final = 40.0

OUTAGES: Final = [
    pytest.param(2, 1.0, 40, id="short", marks=pytest.mark.timeout(120)),
    pytest.param(20, 5.0, 100, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(3600)]),
]
CUTTING: Final = [
    pytest.param(3.0, 40, id="short", marks=pytest.mark.timeout(120)),
    pytest.param(120.0, 100, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(1200)]),
]
CUTS_PER_SECOND: Final = 5
LISTENING_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.02

OURS: Final = """
SELECT pid, query ILIKE 'LISTEN%' FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'finmind-jobs' ORDER BY pid"""


@pytest.mark.parametrize(("outages", "longest_seconds", "rate"), OUTAGES)
async def test_a_database_that_stops_at_once_is_used_again_when_it_is_back(
    trial: Trial, cluster: Cluster, outages: int, longest_seconds: float, rate: int
) -> None:
    leases = {"LEASE_SECONDS": 12, "HEARTBEAT_SECONDS": 3}
    api, workers = await asyncio.gather(trial.api(), trial.workers(WORKERS, **leases))
    backs: list[float] = []
    async with trial.load(api, rate=rate, seconds=(0.02, 0.2)):
        await rate_back(trial, rate, since=time.monotonic())
        for _ in range(outages):
            with trial.fault("stopped"):
                await cluster.stop_immediately()
                await asyncio.sleep(trial.random.uniform(0, longest_seconds))
                await cluster.start()
            backs.append(await rate_back(trial, rate, since=time.monotonic()))
    await trial.at_rest()

    trial.figures["seconds_until_95_percent"] = [round(back, 2) for back in backs]
    await trial.verdict()
    assert max(backs) <= BACK_SECONDS
    assert_alive([api, *workers])


@pytest.mark.parametrize(("seconds", "rate"), CUTTING)
async def test_connections_that_are_cut_one_after_another_cost_nothing(
    trial: Trial, seconds: float, rate: int
) -> None:
    async with watched(trial) as listeners:
        api, workers = await asyncio.gather(trial.api(), trial.workers(WORKERS))
        await until(listeners.complete, 20, what="three that listen")
        async with trial.load(api, rate=rate, seconds=(0.02, 0.2)):
            with trial.fault("terminated"):
                cuts = await cut(trial, listeners, seconds)
            await until(listeners.complete, GIVE_UP_SECONDS, what="three that listen again")
            back = await rate_back(trial, rate, since=time.monotonic())
    await trial.at_rest()

    trial.figures["seconds_until_95_percent"] = round(back, 2)
    trial.figures["connections_cut"] = cuts
    trial.figures["listeners_cut"] = len(listeners.waits)
    trial.figures["slowest_listen_seconds"] = round(max(listeners.waits, default=0), 2)
    await trial.verdict()
    assert back <= BACK_SECONDS
    if seconds > 60:  # of a few seconds one pause of the machine is a large share
        assert cuts >= 0.9 * CUTS_PER_SECOND * seconds
    assert listeners.waits, "no listener was cut"
    assert max(listeners.waits) <= LISTENING_SECONDS
    assert_alive([api, *workers])


class Listeners:
    """Which of our connections LISTEN, and for how long one was missing after each cut."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self._known: set[int] = set()
        self._alive: set[int] = set()
        self._missing_since: list[float] = []
        self.waits: list[float] = []
        self.ours: list[int] = []
        """Every connection of ours."""

    @property
    def alive(self) -> list[int]:
        """Those that listen now."""
        return sorted(self._alive)

    async def complete(self) -> bool:
        """Whether every worker listens."""
        return len(self._alive) == WORKERS

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            rows = await self._connection.fetch(OURS)
            self.ours = [row[0] for row in rows]
            # A listener is told by its first statement; ten seconds later it has sent another.
            come = {row[0] for row in rows if row[1]} - self._known
            self._known |= come
            gone = self._alive - set(self.ours)
            self._alive = (self._alive - gone) | come
            now = time.monotonic()
            self._missing_since.extend(now for _ in gone)
            for _ in range(min(len(come), len(self._missing_since))):
                # Who came back is not told: the longest wait is this long, or shorter.
                self.waits.append(now - self._missing_since.pop())
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def watched(trial: Trial) -> AsyncIterator[Listeners]:
    """Watch who listens, from before the workers start."""
    connection = await trial.connect()
    listeners = Listeners(connection)
    watching = asyncio.create_task(listeners.watch(), name="watching listeners")
    try:
        yield listeners
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        await connection.close()


async def cut(trial: Trial, listeners: Listeners, seconds: float) -> int:
    """End a random connection of ours five times a second; how many were."""
    connection = await trial.connect()
    began = time.monotonic()
    cuts = 0
    while time.monotonic() < began + seconds:
        # The first is a listener, whatever the dice say: a short run might meet none.
        victims = listeners.ours if cuts else listeners.alive
        cuts += await connection.fetchval(
            "SELECT pg_terminate_backend($1, 1000)", trial.random.choice(victims)
        )
        # By the clock: what a cut takes, or one that found nobody, is made up for.
        due_in = began + cuts / CUTS_PER_SECOND - time.monotonic()
        await asyncio.sleep(max(LOOK_SECONDS, due_in))
    await connection.close()
    return cuts


async def rate_back(trial: Trial, rate: int, *, since: float) -> float:
    """Seconds from `since` until jobs were taken, and done, at 95 % of the rate for a while."""
    while time.monotonic() < since + GIVE_UP_SECONDS:
        notes = [note for note in trial.ledger.notes() if note.at >= since]
        # What waited through the outage comes in one burst, which is no rate: only what was asked
        # for since counts as taken, and what was begun since as done.
        offered = {note.detail for note in notes if note.event == Event.OFFERED}
        begun = {(note.job_id, note.lease_token) for note in notes if note.event == Event.START}
        taken = [n for n in notes if n.event == Event.ACKNOWLEDGED and n.detail in offered]
        done = [
            n
            for n in notes
            if n.event == Event.ACCEPTED
            and n.detail == "succeeded"
            and (n.job_id, n.lease_token) in begun
        ]
        enough = int(rate * WINDOW_SECONDS * SHARE)
        for begin in sorted({round(note.at, 1) for note in taken}):
            if min(within(taken, begin), within(done, begin)) >= enough:
                return max(0.0, begin - since)
        await asyncio.sleep(0.2)
    return float("inf")


def within(notes: Sequence[Note], begin: float) -> int:
    """How many of the notes fall into the window that begins then."""
    return sum(begin <= note.at < begin + WINDOW_SECONDS for note in notes)


def assert_alive(replicas: Sequence[Replica]) -> None:
    """No process has ended."""
    for replica in replicas:
        assert replica.process.poll() is None, replica.said()[-4000:]
