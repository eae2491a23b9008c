"""The workers that claim over HTTP, as this process knows them."""

import json
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

from service.db.connection import Link
from service.jobs import store
from service.jobs.flow.queues import ALL
from service.jobs.store.remote_workers import RemoteWorker
from service.settings import Settings

MAX_KNOWN: Final = 10_000
"""Workers that one process remembers; others are looked up."""


class _Known(NamedTuple):
    worker: RemoteWorker
    names: frozenset[tuple[str, str]]
    concurrency: int
    at: float


class Workers:
    """Enters workers into `job_workers`, at most once a heartbeat each."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._fresh_seconds = settings.heartbeat_seconds
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

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
        worker = await store.remote_workers.enter(
            self._link,
            owner=owner,
            name=name,
            queues=queues or (ALL,),
            job_types=job_types,
            concurrency=concurrency,
            version=version,
            policies=json.dumps(policies) if policies else None,
            anew=True,
        )
        self._remember(owner, name, worker, _names(job_types, queues), concurrency)
        return worker

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
        names = _names(job_types, queues)
        known = self._known.get((owner, name))
        if known is not None:
            fresh = time.monotonic() - known.at < self._fresh_seconds
            if fresh and names <= known.names and limit <= known.concurrency:
                return known.worker
        worker = await store.remote_workers.enter(
            self._link,
            owner=owner,
            name=name,
            queues=queues or (ALL,),
            job_types=job_types,
            concurrency=limit,
            anew=False,
        )
        self._remember(owner, name, worker, names, limit)
        return worker

    async def seen(self, owner: str, name: str) -> bool:
        """A worker lives; whether it is to claim no more.

        Raises:
            DATABASE_ERRORS: the database does not answer.
        """
        draining = await store.remote_workers.seen(self._link, owner=owner, name=name)
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

    def _remember(
        self,
        owner: str,
        name: str,
        worker: RemoteWorker,
        names: frozenset[tuple[str, str]],
        concurrency: int,
    ) -> None:
        self._known[owner, name] = _Known(worker, names, concurrency, time.monotonic())
        self._known.move_to_end((owner, name))
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)


def _names(job_types: Sequence[str], queues: Sequence[str] | None) -> frozenset[tuple[str, str]]:
    return frozenset(
        [*(("type", one) for one in job_types), *(("queue", one) for one in queues or (ALL,))]
    )
