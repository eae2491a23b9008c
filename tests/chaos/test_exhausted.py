"""Others hold every connection that PostgreSQL has: the API says so, and running jobs go on."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from service.db.engine import Database
from service.jobs import Registry, Worker
from service.settings import Settings
from tests import databases
from tests.chaos.cluster import Cluster
from tests.chaos.reports import report
from tests.chaos.serving import Serving, serving
from tests.jobs.waiting import until, until_true

RUNNING: Final = 5
OWN: Final = 20
"""At most so many connections are the workers' own."""
REQUESTS: Final[list[tuple[str, str, Any]]] = [
    ("POST", "/jobs", {"job_type": "mail"}),
    ("POST", "/jobs/batch", {"jobs": [{"job_type": "mail"}]}),
    ("GET", "/jobs/1", None),
    ("GET", "/admin/jobs", None),
    ("POST", "/admin/jobs/1/retry", None),
    ("GET", "/reminders", None),
]
CUT_OFF: Final = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = 'finmind-jobs'"""
"""Waits for none of them to end: until all had ended, the first would be back."""


@dataclass(frozen=True)
class Form:
    """How many connections the server has, and for how long others hold them all."""

    connections: int
    seconds: float
    lease_seconds: float


FORMS: Final = [
    pytest.param(Form(40, 1.5, 1.0), id="short"),
    pytest.param(
        Form(330, 60.0, 20.0), id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(400)]
    ),
]


@pytest.fixture
async def small(form: Form) -> AsyncIterator[str]:
    """The DSN of a database whose server has few connections."""
    # Not in pytest's folder, as the server of all the others is not.
    with (
        tempfile.TemporaryDirectory(prefix="finmind-") as directory,
        Cluster.running(Path(directory)) as cluster,
    ):
        setting = f"ALTER SYSTEM SET max_connections = {form.connections}"
        await databases.execute(cluster.dsn, setting)
        await cluster.stop_immediately()
        await cluster.start()
        yield await cluster.new_database()


class Hoard:
    """Idle connections: as many as the server gives."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.held: list[asyncpg.Connection[asyncpg.Record]] = []

    async def take_all(self) -> None:
        """Connect until refused."""
        while True:
            try:
                self.held.append(await asyncpg.connect(self._dsn, timeout=10))
            except asyncpg.TooManyConnectionsError:
                return

    async def take_over(self, connections: int) -> None:
        """Cut everybody else off, and take their places, until all are ours."""
        async with asyncio.timeout(10):
            while len(self.held) < connections:
                await self.held[0].fetchval(CUT_OFF)
                await self.take_all()

    async def release(self) -> None:
        """Give all of them back."""
        held, self.held = self.held, []
        await asyncio.gather(*(connection.close(timeout=5) for connection in held))


class Watched:
    """A handler that runs until it is told to end, and knows how often it runs at once."""

    def __init__(self) -> None:
        self.starts: Counter[int] = Counter()
        self.under_way: Counter[int] = Counter()
        self.overlapped: set[int] = set()
        self.go_on = asyncio.Event()
        self.handlers = Registry()
        self.handlers.handler("long", max_retries=3)(self._run)
        self.handlers.handler("mail")(lambda _: None)

    async def _run(self, payload: Any) -> None:
        number = payload["number"]
        self.starts[number] += 1
        self.under_way[number] += 1
        if self.under_way[number] > 1:
            self.overlapped.add(number)
        try:
            await self.go_on.wait()
        finally:
            self.under_way[number] -= 1


@pytest.mark.parametrize("form", FORMS)
async def test_no_free_connection_is_a_503_and_rescues_no_running_job(
    small: str, form: Form, make_settings: Callable[..., Settings]
) -> None:
    watched, hoard = Watched(), Hoard(small)
    lease = form.lease_seconds
    settings = make_settings(lease_seconds=lease, heartbeat_seconds=lease / 4, sweep_seconds=0.2)
    async with serving(settings, small, handlers=watched.handlers) as under_test:
        rescuer = await another_worker(small, settings, watched.handlers)
        try:
            taken = [await take(under_test, "long", number=n) for n in range(RUNNING)]
            await until_true(lambda: len(watched.under_way) == RUNNING)

            # The workers have their connections; the API's are gone.
            for _ in range(
                20
            ):  # loops beside the API had some of them, and give those back only now
                await under_test.database.engine.dispose()
                under_test.service.intake._plain._link.drop()
                await hoard.take_all()
                await asyncio.sleep(0.05)
            held = len(hoard.held)
            told = await refused_for(form.seconds, under_test)
            assert watched.starts == Counter(range(RUNNING))

            # The workers lose theirs as well: their leases end, and their handlers before those.
            await hoard.take_over(form.connections)
            told += await refused_for(form.seconds, under_test)
            assert not +watched.under_way
            await hoard.release()

            watched.go_on.set()
            began = time.monotonic()
            await all_done(small)
            recovered = time.monotonic() - began
            taken.append(await take(under_test, "mail"))
            stands = await all_done(small)
        finally:
            await rescuer.stop()
            await hoard.release()
    report(
        f"exhausted-{form.connections}",
        held=held,
        answers={str(key): count for key, count in told.items()},
        recovered_seconds=round(recovered, 2),
        overlapped=len(watched.overlapped),
    )
    assert watched.overlapped == set()
    assert held >= form.connections - OWN
    # What was refused does not stand. Cut off for longer than a lease, each ran once more.
    assert stands == dict.fromkeys(taken, "SUCCESS")
    assert watched.starts == dict.fromkeys(range(RUNNING), 2)


async def take(under_test: Serving, job_type: str, **payload: Any) -> int:
    """Have one job enqueued; its id."""
    answer = await under_test.post_job(job_type, payload)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


async def refused_for(seconds: float, under_test: Serving) -> Counter[tuple[int, str]]:
    """What all kinds of requests are told in that time."""
    told: Counter[tuple[int, str]] = Counter()
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for method, path, body in REQUESTS:
            began = time.monotonic()
            answer = await under_test.client.request(method, path, json=body)
            assert time.monotonic() - began < 3
            told[answer.status_code, answer.headers.get("retry-after", "")] += 1
    assert {status for status, _ in told} == {503}, told
    assert all(1 <= int(after) <= 2 for _, after in told), told
    return told


async def another_worker(dsn: str, settings: Settings, handlers: Registry) -> Worker:
    worker = Worker(Database(dsn, settings), settings, handlers=handlers)
    await worker.start()
    return worker


async def all_done(dsn: str) -> dict[int, str]:
    """Wait until no job is live; the status of each."""
    sql = await asyncpg.connect(dsn, timeout=10)
    try:

        async def ended() -> bool:
            return not await sql.fetchval("SELECT count(*) FROM jobs_live")

        await until(ended, seconds=40)
        rows = await sql.fetch("SELECT id, status FROM background_jobs")
        return {row[0]: row[1] for row in rows}
    finally:
        await sql.close()
