"""One trial: processes on a database of their own, faults of a fixed seed, a ledger, a verdict."""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from service.jobs import NewJob, enqueue_batch
from tests.chaos.checker import Row, Verdict, check
from tests.chaos.ledger import Event, Ledger, Note, Pen
from tests.chaos.load import Enqueuer
from tests.processes.fleet import ROOT, Fleet, Replica, until

REPORTS_VARIABLE: Final = "CHAOS_REPORTS"
"""Names the folder of the reports; `.chaos` beside the sources unless it is set."""
PROBE: Final = "tests.chaos.probe"

ROWS: Final = """
SELECT id, (payload ->> 'number')::bigint, status, lease_token, result FROM background_jobs
WHERE job_type <> 'send_reminder'"""

ENVIRONMENT: Final[dict[str, object]] = {
    "HANDLER_MODULES": "tests.chaos.handlers",
    "WORKER_PORT": 0,
    "WORKER_CONCURRENCY": 20,
    "LEASE_SECONDS": 4,
    "HEARTBEAT_SECONDS": 1,
    # A job may be in flight at several faults in a row; what is then done is another test's.
    "MAX_LOST_LEASES": 100,
}


class Trial:
    """What a test of a fault works with."""

    def __init__(self, dsn: str, directory: Path, *, name: str) -> None:
        self.dsn = dsn
        self.name = name
        self.random = random.Random(name)
        """The same faults in each run of a test: its seed is its name."""
        self.fleet = Fleet(directory)
        self.pen = Pen(self.fleet.ledger.path)
        self.figures: dict[str, Any] = {}
        """What the report contains beside the verdict."""
        self._began = time.monotonic()
        self._offered = 0

    @property
    def ledger(self) -> Ledger:
        """What was written down."""
        return self.fleet.ledger

    def close(self) -> None:
        """Leave no process and no file behind."""
        self.fleet.stop()
        self.pen.close()

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of the test's own."""
        return await asyncpg.connect(self.dsn, timeout=10, command_timeout=60)

    # -- processes ----------------------------------------------------------------------------

    def spawn(self, *command: str, module: str = PROBE, **environment: object) -> Replica:
        """Start one process, `worker` unless told otherwise; it may not be ready yet."""
        options = ENVIRONMENT | environment
        return self.fleet.spawn(self.dsn, *(command or ("worker",)), module=module, **options)

    async def workers(self, count: int, **environment: object) -> list[Replica]:
        """Start processes that run jobs; returns when all are ready."""
        begun = [self.spawn(module=PROBE, **environment) for _ in range(count)]
        await asyncio.gather(*(replica.ready() for replica in begun))
        return begun

    async def api(self, **environment: object) -> Replica:
        """Start the process that takes jobs and runs none."""
        replica = self.spawn("serve", "--no-worker", module=PROBE, **environment)
        await replica.ready()
        return replica

    # -- load ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def load(
        self, api: Replica, *, rate: float, seconds: tuple[float, float]
    ) -> AsyncIterator[Enqueuer]:
        """Jobs at `rate` a second, each of which takes so long, or so long."""

        def body(number: int) -> dict[str, Any]:
            payload = {"number": number, "seconds": round(self.random.uniform(*seconds), 3)}
            return {"job_type": "chaos.steady", "payload": payload}

        enqueuer = Enqueuer(api.url, self.pen, body, rate=rate)
        async with enqueuer.going():
            yield enqueuer
        self.figures["answers"] = dict(enqueuer.answers)
        self.figures["slowest_request_seconds"] = round(enqueuer.slowest_seconds, 3)
        # Whatever befell the service: no error of its own, no hang-up, and no answer that never came.
        assert enqueuer.answers.keys() <= {"201", "503"}, enqueuer.answers

    async def enqueue(
        self,
        job_type: str,
        payloads: Sequence[dict[str, Any]],
        *,
        keys: Sequence[str | None] | None = None,
        **options: Any,
    ) -> list[int]:
        """Jobs in one transaction, by Python; their ids. A number is put into each payload.

        `keys` are their concurrency keys, one for each.
        """
        numbers = range(self._offered + 1, self._offered + len(payloads) + 1)
        self._offered += len(payloads)
        jobs = [
            NewJob(job_type, payload | {"number": number}, concurrency_key=key, **options)
            for number, payload, key in zip(
                numbers, payloads, keys or [None] * len(payloads), strict=True
            )
        ]
        self.pen.write(self.pen.made(Event.OFFERED, detail=number) for number in numbers)
        connection = await self.connect()
        try:
            async with connection.transaction():
                enqueued = await enqueue_batch(connection, jobs)
        finally:
            await connection.close()
        self.pen.write(
            self.pen.made(Event.ACKNOWLEDGED, job.id, detail=number)
            for number, job in zip(numbers, enqueued, strict=True)
        )
        return [job.id for job in enqueued]

    # -- faults -------------------------------------------------------------------------------

    @contextmanager
    def fault(self, kind: str, pid: int = 0) -> Iterator[None]:
        """Note a fault that lasts as long as the block."""
        self.pen.note(Event.FAULT, pid=pid, detail=kind)
        yield
        self.pen.note(Event.OVER, pid=pid, detail=kind)

    def kill(self, replica: Replica) -> None:
        """kill -9."""
        with self.fault("kill", replica.pid):
            replica.kill()

    # -- the end ------------------------------------------------------------------------------

    async def at_rest(self, seconds: float = 60.0) -> None:
        """Wait until no job is live; those that stay are the checker's to report."""
        connection = await self.connect()

        async def none_live() -> bool:
            return not await connection.fetchval("SELECT count(*) FROM jobs_live")

        try:
            await until(none_live, seconds, what="end of every job")
        except AssertionError:
            self.figures["not_at_rest"] = True
        finally:
            await connection.close()

    async def rows(self) -> list[Row]:
        """The table as it stands."""
        connection = await self.connect()
        try:
            found = await connection.fetch(ROWS)
        finally:
            await connection.close()
        return [
            Row(job_id, number, status, token, None if text is None else json.loads(text))
            for job_id, number, status, token, text in found
        ]

    async def verdict(self, **options: Any) -> Verdict:
        """Compare the ledger with the table; the report is written before anything is asserted."""
        verdict = check(self.ledger.notes(), await self.rows(), **options)
        self.report(verdict)
        assert verdict.flaws == [], f"{verdict.flaws[:20]}\n{self.fleet.said()}"
        assert verdict.duplicated <= verdict.in_flight_at_faults
        return verdict

    def report(self, verdict: Verdict) -> None:
        """Write what came of the trial as JSON."""
        folder = Path(os.environ.get(REPORTS_VARIABLE, ROOT / ".chaos"))
        folder.mkdir(parents=True, exist_ok=True)
        told = {
            "trial": self.name,
            "seconds": round(time.monotonic() - self._began, 1),
            **self.figures,
            **verdict.to_json(),
        }
        (folder / f"{self.name}.json").write_text(json.dumps(told, indent=2) + "\n")

    # -- what the ledger shows ------------------------------------------------------------------

    def orphans_restarted(self, rows: Sequence[Row]) -> list[float]:
        """Of each claim that a kill cut short: seconds from the kill to the job's next claim."""
        final = {row.job_id: row.lease_token for row in rows}
        claims: dict[int, list[Note]] = {}
        accepted: set[tuple[int, int]] = set()
        killed: dict[int, float] = {}
        for note in self.ledger.notes():
            if note.event == Event.CLAIMED:
                claims.setdefault(note.job_id, []).append(note)
            elif note.event == Event.ACCEPTED and note.detail not in {"heartbeat", "progress"}:
                accepted.add((note.job_id, note.lease_token))
            elif note.event == Event.OVER and note.detail == "kill":
                killed[note.pid] = note.at
        waits: list[float] = []
        for job_id, history in claims.items():
            for claim, after in zip(history, [*history[1:], None], strict=True):
                settled = (job_id, claim.lease_token) in accepted
                if claim.pid not in killed or settled or final[job_id] == claim.lease_token:
                    continue
                waits.append(after.at - killed[claim.pid] if after else float("inf"))
        return waits
