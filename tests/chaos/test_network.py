"""The way to PostgreSQL goes bad in each of the ways in which networks do, and good again."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from service.db.engine import Database
from service.jobs import Registry
from service.jobs import maintenance as duties
from service.settings import Settings
from tests.chaos.serving import Serving, serving
from tests.jobs.proxy import BOTH, Proxy, Way
from tests.jobs.waiting import until, until_true

REQUESTS: Final = frozenset({Way.REQUESTS})
ANSWERS: Final = frozenset({Way.ANSWERS})
PAUSE_SECONDS: Final = 0.05
"""Between two requests of one client: twenty a second."""


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


@asynccontextmanager
async def half_open(proxy: Proxy, ways: frozenset[Way]) -> AsyncIterator[None]:
    proxy.leave_half_open(ways)
    yield


@asynccontextmanager
async def stalled(proxy: Proxy, ways: frozenset[Way]) -> AsyncIterator[None]:
    proxy.stall(ways)
    yield
    proxy.flow()


Fault = Callable[[Proxy, frozenset[Way]], Any]
ALL: Final[list[tuple[Fault, frozenset[Way]]]] = [
    *((fault, ways) for fault in (latency, bandwidth, half_open, stalled)
      for ways in (BOTH, REQUESTS, ANSWERS)),
    (cut, BOTH),
    (reset, BOTH),
]  # fmt: skip
LONG: Final = [pytest.mark.chaos, pytest.mark.timeout(240)]
SHORT: Final = {
    "seconds": 0.5,
    "hang_seconds": 3.0,
    "settings": {
        "query_timeout_seconds": 0.5,
        "database_command_timeout_seconds": 1.0,
        "database_connect_timeout_seconds": 1.0,
        "lease_seconds": 3.0,
        "heartbeat_seconds": 0.5,
    },
}
FULL: Final = {"seconds": 60.0, "hang_seconds": 15.0, "settings": {}}


@dataclass
class Clients:
    """Post jobs and read, one after the other in each client, and keep the books of it."""

    serving: Serving
    acknowledged: set[int] = field(default_factory=set)
    unsure: int = 0
    longest_seconds: float = 0.0
    refusals: list[tuple[int, str | None]] = field(default_factory=list)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._post())
            group.create_task(self._read("/admin/jobs/stats"))
            group.create_task(self._read("/admin/jobs?status=PENDING"))

    async def _post(self) -> None:
        while True:
            answer = await self._timed("POST", "/jobs", {"job_type": "mail"})
            if answer.status_code == 201:
                self.acknowledged.add(answer.json()["id"])
            else:
                self.unsure += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self, path: str) -> None:
        while True:
            await self._timed("GET", path, None)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _timed(self, method: str, path: str, body: Any) -> Any:
        began = time.monotonic()
        answer = await self.serving.client.request(method, path, json=body)
        self.longest_seconds = max(self.longest_seconds, time.monotonic() - began)
        if answer.status_code not in {200, 201}:
            self.refusals.append((answer.status_code, answer.headers.get("retry-after")))
        return answer


def forms() -> list[Any]:
    found = []
    for fault, ways in ALL:
        name = f"{fault.__name__}-{'+'.join(sorted(ways))}"
        found.append(pytest.param([(fault, ways)], FULL, id=name, marks=LONG))
    few: list[tuple[Fault, frozenset[Way]]] = [
        (latency, BOTH),
        (bandwidth, BOTH),
        (half_open, REQUESTS),
        (reset, BOTH),
    ]
    few += [(half_open, ANSWERS), (stalled, BOTH)]
    return [*found, pytest.param(few, SHORT, id="short")]


@pytest.mark.parametrize(("faults", "form"), forms())
async def test_no_call_hangs_and_no_restart_is_needed(
    faults: list[tuple[Fault, frozenset[Way]]],
    form: dict[str, Any],
    pg_dsn: str,
    database: Database,
    make_settings: Callable[..., Settings],
) -> None:
    handlers = Registry()

    @handlers.handler("mail", max_retries=100)
    async def mail(_: Any) -> str:
        return "done"

    proxy = Proxy(pg_dsn)
    await proxy.start()
    try:
        async with serving(
            make_settings(poll_max_seconds=0.2, **form["settings"]), proxy.dsn, handlers=handlers
        ) as under_test:
            clients = Clients(under_test)
            load = asyncio.create_task(clients.run())
            for fault, ways in faults:
                async with fault(proxy, ways):
                    await asyncio.sleep(form["seconds"])
                await back_at_work(clients, database, seconds=form["hang_seconds"])
            load.cancel()
            await asyncio.wait({load})
            await everything_ended(database)
            assert under_test.worker is not None
            assert under_test.worker.alive
    finally:
        await proxy.close()
    assert clients.longest_seconds < form["hang_seconds"]
    assert all(status == 503 and int(after or 99) <= 2 for status, after in clients.refusals)
    await nothing_lost(database, clients)


async def back_at_work(clients: Clients, database: Database, *, seconds: float) -> None:
    """Wait until a job that was asked for just now has been run."""
    acknowledged = len(clients.acknowledged)
    await until_true(lambda: len(clients.acknowledged) > acknowledged + 1, seconds=seconds)
    newest = max(clients.acknowledged)
    sql = await database.connect()
    try:

        async def done() -> bool:
            status = "SELECT status FROM background_jobs WHERE id = $1"
            return bool(await sql.fetchval(status, newest) == "SUCCESS")

        await until(done, seconds=seconds)
    finally:
        await sql.close()


async def everything_ended(database: Database) -> None:
    sql = await database.connect()
    try:

        async def done() -> bool:
            return not await sql.fetchval("SELECT count(*) FROM jobs_live")

        await until(done, seconds=45)
    finally:
        await sql.close()


async def nothing_lost(database: Database, clients: Clients) -> None:
    sql = await database.connect()
    try:
        rows = await sql.fetch("SELECT id, status, result #>> '{}' FROM background_jobs")
    finally:
        await sql.close()
    assert {(row[1], row[2]) for row in rows} == {("SUCCESS", "done")}
    stored = {row[0] for row in rows}
    assert clients.acknowledged <= stored
    assert len(stored - clients.acknowledged) <= clients.unsure


async def test_a_leader_that_vanished_without_a_word_is_replaced(
    proxy_pair: tuple[Proxy, Database, Database],
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy, vanishing, standing = proxy_pair
    monkeypatch.setattr(duties, "VANISHED_SECONDS", 1.0)
    settings = make_settings(maintenance_seconds=0.1)
    first = duties.Maintenance(vanishing, settings, handlers=Registry())
    second = duties.Maintenance(standing, settings, handlers=Registry())
    leading = asyncio.create_task(first.run())
    await until_true(lambda: first._leads_since is not None)
    waiting = asyncio.create_task(second.run())
    try:
        proxy.leave_half_open()
        leading.cancel()  # its machine lost power: nothing of it reaches the server any more
        await until_true(lambda: second._leads_since is not None, seconds=10)
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
