"""The workers that claim over HTTP, as this process knows them."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.flow.queues import ALL
from service.jobs.store.remote_workers import Entry, Name, RemoteWorker
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.settings import Settings

MAX_KNOWN: Final = 10_000
"""Workers that one process remembers; others are looked up."""
BATCH: Final = 500
"""Workers that one statement enters."""

_log = get_logger(__name__)


class _Known(NamedTuple):
    worker: RemoteWorker
    serves: frozenset[tuple[str, str]]
    concurrency: int
    at: float


class Workers:
    """Enters workers into `job_workers`, at most once a heartbeat each; many with one statement."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._fresh_seconds = settings.heartbeat_seconds
        self._known: OrderedDict[Name, _Known] = OrderedDict()
        self._entering: dict[bool, dict[Name, tuple[Entry, asyncio.Future[RemoteWorker]]]] = {
            True: {},
            False: {},
        }
        """Those that wait to be entered: that begin, and that claim."""
        self._living: dict[Name, asyncio.Future[bool]] = {}
        """Those whose heartbeats wait to be noted."""
        self._some = asyncio.Event()

    async def register(
        self,
        owner: str,
        name: str,
        *,
        job_types: Sequence[str],
        queues: Sequence[str] | None,
        concurrency: int,
        version: str | None,
        policies: Mapping[str, Any],
    ) -> RemoteWorker:
        """A worker begins, and tells what it serves.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        entry = _entry(owner, name, job_types, queues, concurrency)
        entry |= {"version": version, "policies": policies or None}
        return await self._enter(entry, anew=True)

    async def claims(
        self,
        owner: str,
        name: str,
        *,
        job_types: Sequence[str],
        queues: Sequence[str] | None,
        limit: int,
    ) -> RemoteWorker:
        """A worker claims jobs of these types.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        entry = _entry(owner, name, job_types, queues, limit)
        known = self._known.get((owner, name))
        if known is not None and self._holds(known, entry):
            return known.worker
        return await self._enter(entry, anew=False)

    def _holds(self, known: _Known, entry: Entry) -> bool:
        """Whether what is known of a worker is fresh, and all that it tells now."""
        return (
            time.monotonic() - known.at < self._fresh_seconds
            and _serves(entry) <= known.serves
            and entry["concurrency"] <= known.concurrency
        )

    async def seen(self, owner: str, name: str) -> bool:
        """A worker lives; whether it is to claim no more.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        waiting = self._living.get((owner, name))
        if waiting is None:
            waiting = asyncio.get_running_loop().create_future()
            self._living[owner, name] = waiting
            self._some.set()
        draining = await asyncio.shield(waiting)
        if draining:  # its next claim looks again
            self._known.pop((owner, name), None)
        return draining

    async def stopped(self, owner: str, name: str) -> int | None:
        """A worker stopped in good order; its id.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        self._known.pop((owner, name), None)
        return await store.remote_workers.stopped(self._link, owner=owner, name=name)

    async def waiting(self, ids: Collection[int]) -> set[int]:
        """These wait for jobs; those of them that are to claim no more.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        return await store.remote_workers.waiting(self._link, ids)

    async def run(self) -> None:
        """Enter those that wait until cancelled; while one statement runs, the next batch gathers."""
        while True:
            await self._some.wait()
            self._some.clear()
            for anew, entering in self._entering.items():
                while entering:
                    batch = dict(islice(entering.items(), BATCH))
                    for worker in batch:
                        del entering[worker]
                    await self._enter_all(batch, anew=anew)
            while self._living:
                living = dict(islice(self._living.items(), BATCH))
                for worker in living:
                    del self._living[worker]
                await self._note_seen(living)

    async def _enter(self, entry: Entry, *, anew: bool) -> RemoteWorker:
        worker, entering = (entry["owner"], entry["name"]), self._entering[anew]
        if worker in entering:
            # Two calls of one worker at once: the later tells all that both serve.
            before, entered = entering[worker]
            entry["queues"] = sorted({*before["queues"], *entry["queues"]})
            entry["job_types"] = sorted({*before["job_types"], *entry["job_types"]})
        else:
            entered = asyncio.get_running_loop().create_future()
        entering[worker] = entry, entered
        self._some.set()
        return await asyncio.shield(entered)

    async def _enter_all(
        self, batch: Mapping[Name, tuple[Entry, asyncio.Future[RemoteWorker]]], *, anew: bool
    ) -> None:
        entries = [entry for entry, _ in batch.values()]
        try:
            found = await store.remote_workers.enter(self._link, entries, anew=anew)
        except DATABASE_ERRORS as error:
            _failed([entered for _, entered in batch.values()], error)
            return
        for worker, (entry, entered) in batch.items():
            self._remember(worker, found[worker], entry)
            entered.set_result(found[worker])

    async def _note_seen(self, living: Mapping[Name, asyncio.Future[bool]]) -> None:
        try:
            draining = await store.remote_workers.seen(self._link, living)
        except DATABASE_ERRORS as error:
            _failed(list(living.values()), error)
            return
        for worker, noted in living.items():
            noted.set_result(draining.get(worker, False))

    def _remember(self, name: Name, worker: RemoteWorker, entry: Entry) -> None:
        now = time.monotonic()
        self._known[name] = _Known(worker, _serves(entry), entry["concurrency"], now)
        self._known.move_to_end(name)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


def _entry(
    owner: str, name: str, job_types: Sequence[str], queues: Sequence[str] | None, jobs: int
) -> Entry:
    return {
        "owner": owner,
        "name": name,
        "queues": list(queues or (ALL,)),
        "job_types": list(job_types),
        "concurrency": jobs,
        "version": None,
        "policies": None,
    }


def _serves(entry: Entry) -> frozenset[tuple[str, str]]:
    types = (("type", one) for one in entry["job_types"])
    return frozenset([*types, *(("queue", one) for one in entry["queues"])])


def _failed(waiting: Sequence[asyncio.Future[Any]], error: Exception) -> None:
    record_database_error("remote_workers")
    _log.warning("remote_workers_not_entered", workers=len(waiting), error=type(error).__name__)
    for one in waiting:
        one.set_exception(error)
        one.exception()  # whoever asked may have gone
