"""Drives this project's own engine, exactly as the peers are driven."""

from benchmarks.peers.driver import Handler, Payload, Peer, main
from benchmarks.scenario import settings
from service.db.engine import Database
from service.db.migrate import upgrade
from service.heap import tune_garbage_collection
from service.jobs import Intake, NewJob, Registry, Worker, enqueue_many
from service.jobs.maintenance import partitions
from service.observability.logging import configure_logging


class Ours(Peer):
    """By the default configuration, history kept."""

    unfinished = "SELECT FROM finmind_jobs.background_jobs WHERE status IN ('PENDING', 'RUNNING')"
    kept = "SELECT FROM finmind_jobs.background_jobs WHERE status NOT IN ('PENDING', 'RUNNING')"

    async def open(self, url: str, handle: Handler) -> None:
        options = settings(log_level="ERROR")
        configure_logging(options)
        handlers = Registry()

        @handlers.handler("noop")
        async def noop(payload: Payload) -> None:
            handle(payload)

        self._database = Database(url, options)
        await upgrade(self._database, options)
        link = self._database.link()
        await partitions.make_ahead(link, days=7)  # once a day, not once a start
        await link.close()
        self._worker = Worker(self._database, options, handlers=handlers)
        self._intake = Intake(self._database, options)

    async def enqueue(self, payload: Payload) -> None:
        await self._intake.submit(NewJob("noop", payload))

    async def enqueue_many(self, payloads: list[Payload], chunk: int) -> None:
        del chunk  # enqueue_many batches by itself, within one transaction
        async with self._database.sessions.begin() as session:
            await enqueue_many(session, (NewJob("noop", payload) for payload in payloads))

    async def start(self) -> None:
        tune_garbage_collection()  # as `serve` and `worker` do before they take work
        await self._worker.start()

    async def stop(self) -> None:
        await self._worker.stop()
        await self._intake.stop()
        await self._database.close()


if __name__ == "__main__":
    main(Ours)
