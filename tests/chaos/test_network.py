"""The way to PostgreSQL goes bad in each of the ways in which networks do, and good again."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest

from service.db.engine import Database
from service.jobs import Registry
from service.jobs.maintenance import leader
from service.jobs.maintenance.maintainer import Maintainer
from service.settings import Settings
from tests.chaos.ledger import Event, Pen
from tests.chaos.serving import bearer
from tests.chaos.trial import PROBE, Trial
from tests.jobs.proxy import BOTH, Proxy, Way
from tests.jobs.waiting import until_true

REQUESTS: Final = frozenset({Way.REQUESTS})
ANSWERS: Final = frozenset({Way.ANSWERS})
RATE: Final = 20.0
"""Enqueues a second, and readings of each kind."""
OWN_RATE: Final = 2.0
"""Enqueues a second whose refusals are read whole: `Enqueuer` keeps their status alone."""
OWN_NUMBERS: Final = 1_000_000
"""Far from those of `Enqueuer`, which counts from one."""
READ: Final = ("/admin/jobs/stats", "/admin/jobs?status=PENDING")
JOB_SECONDS: Final = (0.02, 0.2)
LOOK_SECONDS: Final = 0.05
MAX_RETRY_AFTER_SECONDS: Final = 2


@asynccontextmanager
async def latency(proxy: Proxy, ways: frozenset[Way]) -> AsyncIterator[None]:
    proxy.slow(ways, delay_seconds=0.3)
    yield
    proxy.flow()


@asynccontextmanager
async def bandwidth(proxy: Proxy, ways: frozenset[Way]) -> AsyncIterator[None]:
    proxy.slow(ways, bytes_per_second=4_000)
    yield
    proxy.flow()


@asynccontextmanager
async def cut(proxy: Proxy, _: frozenset[Way]) -> AsyncIterator[None]:
    await proxy.cut()
    yield
    await proxy.start()


@asynccontextmanager
async def reset(proxy: Proxy, _: frozenset[Way]) -> AsyncIterator[None]:
    async def again_and_again() -> None:
        while True:
            await proxy.reset()
            await asyncio.sleep(0.5)

    task = asyncio.create_task(again_and_again())
    yield
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled(), task.exception()


@asynccontextmanager
async def half_open(proxy: Proxy, ways: frozenset[Way]) -> AsyncIterator[None]:
    proxy.leave_half_open(ways)
    yield


@asynccontextmanager
async def stalled(proxy: Proxy, ways: frozenset[Way]) -> AsyncIterator[None]:
    proxy.stall(ways)
    yield
    proxy.flow()


Fault = Callable[[Proxy, frozenset[Way]], AbstractAsyncContextManager[None]]
ALL: Final[list[tuple[Fault, frozenset[Way]]]] = [
    *((fault, ways) for fault in (latency, bandwidth, half_open, stalled)
      for ways in (BOTH, REQUESTS, ANSWERS)),
    (cut, BOTH),
    (reset, BOTH),
]  # fmt: skip


@dataclass(frozen=True)
class Form:
    """How long a fault lasts, how long a call may take, and the settings that go with these."""

    seconds: float
    limit_seconds: float
    settings: dict[str, object] = field(default_factory=dict)


LONG: Final = Form(60.0, 15.0)
"""The settings that the service has by itself."""
SHORT: Final = Form(
    0.5,
    6.0,
    {
        "QUERY_TIMEOUT_SECONDS": 0.5,
        "DATABASE_COMMAND_TIMEOUT_SECONDS": 1,
        "DATABASE_CONNECT_TIMEOUT_SECONDS": 1,
        "LEASE_SECONDS": 3,
        "HEARTBEAT_SECONDS": 0.5,
    },
)
ENVIRONMENT: Final[dict[str, object]] = {
    "HANDLER_MODULES": "tests.chaos.handlers",
    "POLL_MAX_SECONDS": 0.2,
    "MAX_LOST_LEASES": 100,
}


def forms() -> list[Any]:
    long = [pytest.mark.chaos, pytest.mark.timeout(300)]
    found = [pytest.param([one], LONG, id=name_of(*one), marks=long) for one in ALL]
    few: list[tuple[Fault, frozenset[Way]]] = [
        (latency, BOTH),
        (bandwidth, BOTH),
        (half_open, REQUESTS),
        (reset, BOTH),
        (half_open, ANSWERS),
        (stalled, BOTH),
    ]
    return [*found, pytest.param(few, SHORT, id="short", marks=pytest.mark.timeout(120))]


def name_of(fault: Fault, ways: frozenset[Way]) -> str:
    return f"{fault.__name__}-{'+'.join(sorted(ways))}"


@dataclass
class Clients:
    """Read, and now and then enqueue, at a steady rate whatever comes back, and record the answers.

    The checker must know of what they enqueue: `pen` is the ledger's.
    """

    url: str
    pen: Pen
    limit_seconds: float
    answers: Counter[str] = field(default_factory=Counter)
    """Status codes, and errors by their names."""
    refusals: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Status and Retry-After."""
    slowest_seconds: float = 0.0
    well: dict[str, float] = field(default_factory=dict)
    """By path: when the last request was sent that was answered as it should be."""

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        """Ask until the block ends."""
        async with httpx.AsyncClient(
            base_url=self.url,
            headers=bearer(),
            timeout=2 * self.limit_seconds,
            # Given up before the server does: one that it just closes would be an error of ours.
            limits=httpx.Limits(max_connections=None, keepalive_expiry=2),
        ) as client:
            asking = asyncio.create_task(self._ask_all(client), name="clients")
            try:
                yield
            finally:
                asking.cancel()
                await asyncio.wait({asking})
            # A group one of whose requests failed otherwise than by its transport is not cancelled.
            assert asking.cancelled(), asking.exception()

    async def _ask_all(self, client: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as group:
            for path in READ:
                group.create_task(self._read(client, path), name=path)
            group.create_task(self._enqueue(client), name="/jobs")

    async def _read(self, client: httpx.AsyncClient, path: str) -> None:
        async with asyncio.TaskGroup() as requests:
            while True:
                requests.create_task(self._request(client, "GET", path))
                await asyncio.sleep(1 / RATE)

    async def _enqueue(self, client: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as requests:
            number = OWN_NUMBERS
            while True:
                requests.create_task(self._enqueue_one(client, number))
                number += 1
                await asyncio.sleep(1 / OWN_RATE)

    async def _enqueue_one(self, client: httpx.AsyncClient, number: int) -> None:
        payload = {"number": number, "seconds": JOB_SECONDS[0]}
        body = {"job_type": "chaos.steady", "payload": payload}
        self.pen.note(Event.OFFERED, detail=number)
        answer = await self._request(client, "POST", "/jobs", json=body)
        if answer is not None and answer.status_code == 201:
            self.pen.note(Event.ACKNOWLEDGED, answer.json()["id"], detail=number)

    async def _request(
        self, client: httpx.AsyncClient, method: str, path: str, **options: Any
    ) -> httpx.Response | None:
        began = time.monotonic()
        try:
            answer = await client.request(method, path, **options)
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
            return None
        finally:
            # Also of one that hung: by then it has timed out, or we have ended it.
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        self.answers[str(answer.status_code)] += 1
        if answer.status_code in {200, 201}:
            self.well[path] = max(began, self.well.get(path, 0.0))
        else:
            self.refusals[answer.status_code, answer.headers.get("retry-after", "")] += 1
        return answer


@pytest.mark.parametrize(("faults", "form"), forms())
async def test_no_call_hangs_and_no_restart_is_needed(
    trial: Trial, faults: Sequence[tuple[Fault, frozenset[Way]]], form: Form
) -> None:
    proxy = Proxy(trial.dsn)
    await proxy.start()
    backs: dict[str, float] = {}
    try:
        service = trial.fleet.spawn(
            proxy.dsn, "serve", module=PROBE, **ENVIRONMENT, **form.settings
        )
        await service.ready()
        clients = Clients(service.url, trial.pen, form.limit_seconds)
        async with (
            trial.load(service, rate=RATE, seconds=JOB_SECONDS) as enqueuer,
            clients.going(),
        ):
            # A fault befalls what stands: first let every kind of call open its connections.
            begun = await back_at_work(trial, clients)
            for fault, ways in faults:
                name = name_of(fault, ways)
                with trial.fault(name):
                    async with fault(proxy, ways):
                        await asyncio.sleep(form.seconds)
                    backs[name] = await back_at_work(trial, clients)
        await trial.at_rest(90)
        alive = service.process.poll() is None
        ended = await service.terminate()
    finally:
        await proxy.close()
    answers = enqueuer.answers + clients.answers
    slowest = max(enqueuer.slowest_seconds, clients.slowest_seconds)
    trial.figures |= {
        "answers": dict(answers),
        "refusals": {f"{status} {after}": n for (status, after), n in clients.refusals.items()},
        "slowest_request_seconds": round(slowest, 3),
        "seconds_until_at_work": round(begun, 2),
        "seconds_until_back_at_work": {name: round(back, 2) for name, back in backs.items()},
    }
    await trial.verdict()
    assert alive, service.said()[-4000:]
    assert ended == 0, service.said()[-4000:]
    assert slowest < form.limit_seconds
    failed = [line for line in service.said().splitlines() if "request_failed" in line]
    assert answers.keys() <= {"200", "201", "503"}, (answers, failed)
    assert all(is_short(*refusal) for refusal in clients.refusals), clients.refusals
    assert max(backs.values()) < form.limit_seconds


def is_short(status: int, retry_after: str) -> bool:
    """Whether a refusal says that all is well again soon."""
    return status == 503 and 0 <= int(retry_after or -1) <= MAX_RETRY_AFTER_SECONDS


async def back_at_work(trial: Trial, clients: Clients) -> float:
    """Seconds from now until a job asked for since has been run, and everything can be read."""
    since = time.monotonic()
    while time.monotonic() < since + 2 * clients.limit_seconds:
        if run_since(trial, since) and all(clients.well.get(path, 0.0) >= since for path in READ):
            return time.monotonic() - since
        await asyncio.sleep(LOOK_SECONDS)
    return float("inf")


def run_since(trial: Trial, since: float) -> bool:
    """Whether a job that was offered since then has succeeded, as its process was told."""
    notes = [note for note in trial.ledger.notes() if note.at >= since]
    offered = {note.detail for note in notes if note.event == Event.OFFERED}
    taken = {
        note.job_id for note in notes if note.event == Event.ACKNOWLEDGED and note.detail in offered
    }
    return any(
        note.event == Event.ACCEPTED and note.detail == "succeeded" and note.job_id in taken
        for note in notes
    )


async def test_a_leader_that_vanished_is_replaced(
    proxy_pair: tuple[Proxy, Database, Database],
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy, vanishing, standing = proxy_pair
    monkeypatch.setattr(leader, "VANISHED_SECONDS", 1.0)
    settings = make_settings(maintenance_seconds=0.1)
    first = Maintainer(vanishing, settings, handlers=Registry())
    second = Maintainer(standing, settings, handlers=Registry())
    leading = asyncio.create_task(first.run())
    await until_true(lambda: first.leader.since is not None)
    waiting = asyncio.create_task(second.run())
    try:
        proxy.leave_half_open()
        leading.cancel()  # its machine lost power: nothing of it reaches the server any more
        await until_true(lambda: second.leader.since is not None, seconds=10)
    finally:
        for task in (leading, waiting):
            task.cancel()
        await asyncio.wait({leading, waiting})
        await first.close()
        await second.close()


@pytest.fixture
async def proxy_pair(
    pg_dsn: str, settings: Settings
) -> AsyncIterator[tuple[Proxy, Database, Database]]:
    """The same database through a proxy, and straight."""
    proxy = Proxy(pg_dsn)
    await proxy.start()
    through, straight = Database(proxy.dsn, settings), Database(pg_dsn, settings)
    yield proxy, through, straight
    await through.close()
    await straight.close()
    await proxy.close()
