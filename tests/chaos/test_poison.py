"""Jobs that harm the process that runs them: they end, and the good ones among them succeed."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest

from tests.chaos.ledger import Event
from tests.chaos.trial import Trial
from tests.processes.fleet import Replica

GOOD: Final = 1000
GROUPS: Final = 10
WORKERS: Final = 3
LEASE_SECONDS: Final = 2.0
CRASHES: Final = 5
LOST_GOOD: Final = 2
"""Good jobs that may be dead-lettered for what they were in flight with."""
DEAF: Final = "poison.deaf"
RETRIES: Final = {DEAF: 0, "poison.exit": 10, "poison.block": 10, "poison.result": 10}
"""Enough for those that a crash shall end, and not the number of their attempts."""
RESULTS: Final = ("nan", "nul", "surrogate", "deep", "circle", "object")
BAD: Final[list[tuple[str, dict[str, Any]]]] = [
    ("poison.exit", {}),
    ("poison.block", {"seconds": 1.5}),
    ("poison.block", {"seconds": LEASE_SECONDS * 2}),
    ("poison.memory", {}),
    (DEAF, {}),
    ("poison.system_exit", {}),
    ("poison.interrupt", {}),
    ("poison.long_error", {}),
    *(("poison.result", {"kind": kind}) for kind in RESULTS),
]
DEEP_PAYLOAD: Final = """
UPDATE background_jobs SET payload = jsonb_build_object('number', payload -> 'number',
  'deep', (repeat('[', 5000) || repeat(']', 5000))::jsonb)
WHERE job_type = 'poison.payload'"""

FORMS: Final = [
    pytest.param(1, id="short", marks=pytest.mark.timeout(240)),
    pytest.param(8, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(900)]),
]


@dataclass
class Ward:
    """Workers that are replaced when they die, as a platform does, and asked how they are."""

    trial: Trial
    workers: list[Replica] = field(default_factory=list)
    deaths: dict[int, int] = field(default_factory=dict)
    """The exit code of each process that died."""
    stalls: int = 0
    """How often a worker that answered again said that its event loop had been held up."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep so many workers going until the block ends."""
        self.workers = await asyncio.gather(*(self._admit() for _ in range(WORKERS)))
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait({watching})
        assert watching.cancelled(), watching.exception()

    async def _admit(self) -> Replica:
        """A worker that is ready; another where poison ends it before."""
        while True:
            worker = self._spawn()
            try:
                await worker.ready()
            except (AssertionError, httpx.TransportError):
                self.deaths[worker.pid] = await asyncio.to_thread(worker.process.wait, 10)
            else:
                return worker

    def _spawn(self) -> Replica:
        return self.trial.spawn(
            HANDLER_MODULES="tests.chaos.handlers,tests.chaos.poison",
            LEASE_SECONDS=LEASE_SECONDS,
            HEARTBEAT_SECONDS=LEASE_SECONDS / 4,
            MAX_LOST_LEASES=CRASHES,
            SWEEP_SECONDS=0.5,
            SHUTDOWN_GRACE_SECONDS=1,
        )

    async def _watch(self) -> None:
        async with httpx.AsyncClient(timeout=10) as client:
            while True:
                for place, worker in enumerate(self.workers):
                    if worker.process.poll() is not None:
                        self.deaths[worker.pid] = worker.process.returncode
                        self.workers[place] = await self._admit()
                        continue
                    await self._ask(client, worker)
                await asyncio.sleep(0.1)

    async def _ask(self, client: httpx.AsyncClient, worker: Replica) -> None:
        try:
            answer = await client.get(f"{worker.url}/health/ready")
        except httpx.TransportError:
            return  # it died just now
        checks = {check["name"]: check["ok"] for check in answer.json()["checks"]}
        if not checks["event_loop"]:
            assert answer.status_code == 503
            self.stalls += 1


@pytest.mark.parametrize("times", FORMS)
async def test_poison_ends_and_the_good_jobs_among_it_succeed(trial: Trial, times: int) -> None:
    ward = Ward(trial)
    api = await trial.api()  # who makes the schema
    good, bad = await enqueue_mixed(trial, times)
    async with ward.open():
        await trial.at_rest(90.0 + 60.0 * times)
    alive = [worker for worker in ward.workers if worker.process.poll() is None]
    dead = [worker for worker in ward.workers if worker not in alive]
    ward.deaths |= {worker.pid: worker.process.returncode for worker in dead}
    codes = [await worker.terminate() for worker in alive]
    assert await api.terminate() == 0

    rows = await trial.rows()
    ends = {row.job_id: row.status for row in rows}
    starts = Counter(note.job_id for note in trial.ledger.of(Event.START))
    trial.figures |= {
        "good": len(good),
        "good_that_succeeded": sum(ends[job_id] == "SUCCESS" for job_id in good),
        "poison": len(bad),
        "poison_ends": dict(Counter(f"{kind}: {ends[one]}" for one, kind in bad.items())),
        "deaths": len(ward.deaths),
        "times_a_blocked_loop_was_told_of": ward.stalls,
    }
    await trial.verdict(allowed=frozenset({"SUCCESS", "DEAD_LETTER", "FAILED"}), results=False)
    lost = {job_id for job_id in good if ends[job_id] != "SUCCESS"}
    assert len(lost) <= LOST_GOOD
    assert {ends[job_id] for job_id in lost} <= {"DEAD_LETTER"}
    # Poison has no result to speak of; the good ones' the verdict has left out with it.
    results = {row.job_id: row.result for row in rows if row.job_id in good - lost}
    assert results == {
        row.job_id: {"number": row.number, "lease_token": row.lease_token}
        for row in rows
        if row.job_id in good - lost
    }
    assert {starts[job_id] for job_id, kind in bad.items() if kind == "poison.exit"} <= set(
        range(1, CRASHES + 1)
    )
    exits = Counter(ward.deaths.values())
    # Where poison.memory left not a byte, a library may abort that cannot say so otherwise.
    assert {13} <= exits.keys() <= {13, -signal.SIGABRT}, trial.fleet.said()
    assert max(exits.values()) <= times * CRASHES
    assert max(starts[job_id] for job_id in bad) <= CRASHES
    for job_id, kind in bad.items():
        expected = {"DEAD_LETTER"}
        if kind == "poison.block":
            expected |= {"SUCCESS"}  # one that was not missed while it was away
        if kind in {"poison.result", "poison.payload"}:
            expected = {"FAILED", "DEAD_LETTER"}  # the latter if it ran beside worse jobs
        assert ends[job_id] in expected, kind
    blocked = {note.pid for note in trial.ledger.of(Event.OVER) if note.detail == "block"}
    if blocked - ward.deaths.keys():  # one at least went on, and could be asked
        assert ward.stalls > 0
    assert set(codes) == {0}


async def enqueue_mixed(trial: Trial, times: int) -> tuple[set[int], dict[int, str]]:
    """Good jobs and bad ones in one queue, mixed by the trial's dice; the ids of each."""
    good: set[int] = set()
    bad: dict[int, str] = {}
    poison = [*BAD, ("poison.payload", {})] * times
    trial.random.shuffle(poison)
    for group in range(GROUPS):
        payloads = [{"seconds": trial.random.uniform(0, 0.1)} for _ in range(GOOD // GROUPS)]
        good |= set(await trial.enqueue("chaos.steady", payloads))
        for kind, payload in poison[group::GROUPS]:
            (job_id,) = await trial.enqueue(kind, [payload], max_retries=RETRIES.get(kind, 1))
            bad[job_id] = kind
    sql = await trial.connect()
    await sql.execute(DEEP_PAYLOAD)
    await sql.close()
    return good, bad
