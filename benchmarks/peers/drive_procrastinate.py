"""Drives procrastinate the way its documentation calls fast.

Its how-to "Execute multiple jobs at the same time" raises the worker's concurrency for
asynchronous tasks, and 30 is its example; "Batch defer multiple jobs" is its bulk API. It has no
batched fetch and no batched completion: each job is fetched and finished by statements of its
own. Finished jobs are kept, which is its default.
"""

import asyncio
from typing import Any

from procrastinate import App, PsycopgConnector  # type: ignore[import-not-found]

from benchmarks.peers.driver import Handler, Payload, Peer, main

CONCURRENCY = 30


class Procrastinate(Peer):
    """One worker on psycopg's C implementation and its pool."""

    unfinished = "SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    kept = "SELECT FROM procrastinate_jobs WHERE status NOT IN ('todo', 'doing')"

    async def open(self, url: str, handle: Handler) -> None:
        self._app = App(connector=PsycopgConnector(conninfo=url, min_size=4, max_size=20))
        await self._app.open_async()
        await self._app.schema_manager.apply_schema_async()
        self._running: asyncio.Task[None] | None = None

        async def noop(**payload: Any) -> None:
            handle(payload)

        self._noop = self._app.task(name="noop")(noop)

    async def enqueue(self, payload: Payload) -> None:
        await self._noop.defer_async(**payload)

    async def enqueue_many(self, payloads: list[Payload], chunk: int) -> None:
        for at in range(0, len(payloads), chunk):
            await self._noop.batch_defer_async(*payloads[at : at + chunk])

    async def start(self) -> None:
        work = self._app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        self._running = asyncio.create_task(work)

    async def stop(self) -> None:
        if self._running:
            self._running.cancel()  # its documented way to a graceful stop
            await asyncio.wait([self._running])
        await self._app.close_async()


if __name__ == "__main__":
    main(Procrastinate)
