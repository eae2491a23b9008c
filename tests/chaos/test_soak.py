"""Hours of work with a fault now and then: nothing lost, and nothing that grows."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from tests.chaos.cluster import Cluster
from tests.chaos.ledger import Event
from tests.chaos.metrics import ProcessMetrics, growth, mib_in_ten_minutes, settled
from tests.chaos.trial import ENVIRONMENT, PROBE, Trial
from tests.jobs.proxy import Proxy
from tests.processes.fleet import Replica

WORKERS: Final = 3
SLOTS: Final = 10
JOB_SECONDS: Final = 0.3
CAPACITY: Final = WORKERS * SLOTS / JOB_SECONDS
"""Jobs a second that the slots allow."""
LOAD: Final = 0.7
LEASE_SECONDS: Final = 10
"""So long that a worker of a busy machine keeps its leases: only what befalls it may end them."""
COMMAND_SECONDS: Final = 2
AFTERMATH_SECONDS: Final = LEASE_SECONDS + 1.0
"""How long after a fault a lease may end for it."""
SAMPLE_SECONDS: Final = 1.0
STARTS: Final = 5
ENVIRONMENT_: Final = ENVIRONMENT | {
    "WORKER_CONCURRENCY": SLOTS,
    "LEASE_SECONDS": LEASE_SECONDS,
    "HEARTBEAT_SECONDS": LEASE_SECONDS / 4,
    "DATABASE_COMMAND_TIMEOUT_SECONDS": COMMAND_SECONDS,
    "DATABASE_CONNECT_TIMEOUT_SECONDS": COMMAND_SECONDS,
    "MAINTENANCE_SECONDS": 1,
    "WORKER_PORT": 0,
}
CONNECTIONS: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'finmind-jobs'"""
TERMINATE: Final = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'finmind-jobs'"""


@dataclass(frozen=True)
class Form:
    """How long, and how often a fault."""

    seconds: float
    fault_every_seconds: float
    faults: tuple[str, ...]


ALL: Final = (
    "reset",
    "half_open",
    "stall",
    "slow",
    "cut",
    "terminate",
    "kill",
    "freeze",
    "postgres",
)
OF_ONE: Final = frozenset({"kill", "freeze"})
"""Noted with their victim: they explain nothing that befalls the others."""
FORMS: Final = [
    pytest.param(
        Form(12, 1.0, ("reset", "kill", "terminate")),
        id="short",
        marks=pytest.mark.timeout(120),
    ),
    pytest.param(
        Form(float(os.environ.get("SOAK_SECONDS", "3600")), 20.0, ALL),
        id="long",
        marks=[pytest.mark.chaos, pytest.mark.timeout(2 * 3600)],
    ),
]


@dataclass
class Soak:
    """The processes, the faults that befall them, and what they take meanwhile."""

    trial: Trial
    cluster: Cluster
    proxy: Proxy
    api: Replica
    workers: list[Replica]
    metrics: dict[int, list[ProcessMetrics]] = field(default_factory=dict)
    connections: list[int] = field(default_factory=list)
    befallen: Counter[str] = field(default_factory=Counter)

    @property
    def elders(self) -> tuple[Replica, Replica]:
        """Those that no fault may end: what they take can be followed all the way."""
        return self.api, self.workers[0]

    # -- faults -------------------------------------------------------------------------------

    async def befall(self, kind: str) -> None:
        """One fault, from its beginning until nothing can come of it any more."""
        self.befallen[kind] += 1
        faults: dict[str, Callable[[], Awaitable[object]]] = {
            "reset": self.proxy.reset,
            "half_open": self._half_open,
            "stall": self._stall,
            "slow": self._slow,
            "cut": self._cut,
            "terminate": self._terminate,
            "kill": self._kill,
            "freeze": self._freeze,
            "postgres": self._postgres,
        }
        with nullcontext() if kind in OF_ONE else self.trial.fault(kind):
            await faults[kind]()
            # What it began ends later; a claim that was lost is run again after its lease.
            await asyncio.sleep(AFTERMATH_SECONDS)

    async def _half_open(self) -> None:
        self.proxy.leave_half_open()

    async def _stall(self) -> None:
        self.proxy.stall()
        await asyncio.sleep(2)
        self.proxy.flow()

    async def _slow(self) -> None:
        self.proxy.slow(delay_seconds=0.05)
        await asyncio.sleep(2)
        self.proxy.flow()

    async def _cut(self) -> None:
        await self.proxy.cut()
        await asyncio.sleep(2)
        await self.proxy.start()

    async def _terminate(self) -> None:
        sql = await self.trial.connect()
        await sql.fetchval(TERMINATE)
        await sql.close()

    async def _kill(self) -> None:
        victim = self.trial.random.randrange(1, WORKERS)
        self.trial.kill(self.workers[victim])
        self.workers[victim] = await self._replacement()

    async def _replacement(self) -> Replica:
        """A worker that is ready: one that finds no database in time ends, and is started again."""
        for _ in range(STARTS):
            worker = spawn(self.trial, self.proxy, "worker")
            try:
                await worker.ready()
            except AssertionError:
                assert worker.process.poll() is not None, worker.said()
            else:
                return worker
        raise AssertionError(f"{STARTS} workers ended at their start: {self.trial.fleet.said()}")

    async def _freeze(self) -> None:
        victim = self.trial.random.choice(self.workers)
        with self.trial.fault("freeze", victim.pid):
            os.kill(victim.pid, signal.SIGSTOP)
            await asyncio.sleep(LEASE_SECONDS + 1)
            os.kill(victim.pid, signal.SIGCONT)

    async def _postgres(self) -> None:
        await self.cluster.stop_immediately()
        await self.cluster.start()

    # -- metrics ------------------------------------------------------------------------------

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Read what the elders take until the block ends."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
        assert task.cancelled(), task.exception()

    async def _watch(self) -> None:
        while True:
            for replica in self.elders:
                self.metrics.setdefault(replica.pid, []).append(ProcessMetrics.of(replica.pid))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def count_connections(self) -> None:
        """At a quiet moment: those that a fault left behind are gone by then, or stay."""
        sql = await self.trial.connect()
        self.connections.append(await sql.fetchval(CONNECTIONS))
        await sql.close()


def spawn(trial: Trial, proxy: Proxy, *command: str) -> Replica:
    return trial.fleet.spawn(proxy.dsn, *command, module=PROBE, **ENVIRONMENT_)


@pytest.mark.parametrize("form", FORMS)
async def test_a_long_run_of_faults_loses_nothing_and_leaks_nothing(
    trial: Trial, cluster: Cluster, form: Form
) -> None:
    proxy = Proxy(trial.dsn)
    await proxy.start()
    try:
        api = spawn(trial, proxy, "serve", "--no-worker")
        await api.ready()
        workers = [spawn(trial, proxy, "worker") for _ in range(WORKERS)]
        for worker in workers:
            await worker.ready()
        soak = Soak(trial, cluster, proxy, api, workers)
        before = [ProcessMetrics.of(elder.pid).descriptors for elder in soak.elders]
        began = time.monotonic()
        async with (
            trial.load(api, rate=CAPACITY * LOAD, seconds=(0, 2 * JOB_SECONDS)) as enqueuer,
            soak.watched(),
        ):
            while time.monotonic() < began + form.seconds:
                await soak.count_connections()
                kind = trial.random.choice(form.faults)
                next_at = time.monotonic() + form.fault_every_seconds
                await soak.befall(kind)
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))
            await soak.count_connections()
        await trial.at_rest(90)
        after = [ProcessMetrics.of(elder.pid).descriptors for elder in soak.elders]
        seconds = time.monotonic() - began
        ended = [await replica.terminate() for replica in (api, *soak.workers)]
    finally:
        await proxy.close()
    figures = grown(soak)
    trial.figures |= figures | {
        "faults_by_kind": dict(soak.befallen),
        "jobs_a_second": round(enqueuer.offered / seconds, 1),
        "capacity_jobs_a_second": CAPACITY,
        "connections": soak.connections,
        "descriptors_at_rest": [before, after],
    }
    verdict = await trial.verdict()
    assert ended == [0] * (WORKERS + 1), trial.fleet.said()
    assert len(trial.ledger.of(Event.END)) >= verdict.acknowledged
    assert all(late <= early + 3 for early, late in zip(before, after, strict=True))
    if form.seconds > 600:  # a line through less is a line through noise
        assert figures["connections_grown"] <= 3
        assert figures["descriptors_grown"] <= 3
        assert figures["mib_in_ten_minutes"] < 1.0


def grown(soak: Soak) -> dict[str, Any]:
    """By how much the elders grew, and the database's connections with them."""
    samples = soak.metrics.values()
    return {
        "mib_in_ten_minutes": round(max(map(mib_in_ten_minutes, samples)), 3),
        "memory_mib": [round(one[-1].memory_bytes / (1 << 20), 1) for one in samples],
        "descriptors_grown": round(
            max(growth([s.descriptors for s in settled(one)]) for one in samples), 1
        ),
        "threads": [one[-1].threads for one in samples],
        # The first was counted before there was load: pools and duties open theirs on first use.
        "connections_grown": round(growth(soak.connections[1:]), 1),
    }
