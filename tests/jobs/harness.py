"""One database and the event loop that talks to it, for steps that are taken one by one."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.jobs import store
from service.jobs.notify.publisher import publisher_for
from service.settings import Settings
from tests.jobs.reference import SERVED

T = TypeVar("T")


class Harness:
    """The database under test and the loop that talks to it; one for all examples."""

    def __init__(self, dsn: str, settings: Settings) -> None:
        self.settings = settings
        self.runner = asyncio.Runner()
        self.database = Database(dsn, settings)
        self.link = self.database.link()
        self.worker_id, _ = self.do(
            store.workers.register(
                self.link,
                name="of the test",
                queues=["*"],
                job_types=[SERVED],
                concurrency=1,
                version="1",
            )
        )

    def do(self, action: Awaitable[T]) -> T:
        """Wait for one step."""

        async def bounded() -> T:
            async with asyncio.timeout(60):
                return await action

        return self.runner.run(bounded())

    def commit(self, action: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """One step in a transaction of its own."""

        async def run() -> T:
            async with self.database.sessions.begin() as session:
                return await action(session)

        return self.do(run())

    def sql(self, statement: str, *arguments: object) -> list[Any]:
        return self.do(self.link.fetch(statement, *arguments))

    def clear(self) -> None:
        for row in self.sql(*store.partitions.DAY_LEAVES.bind()):
            if row[0] != "jobs_done_default":
                self.sql(f"DROP TABLE {row[0]}")
        self.sql("DELETE FROM background_jobs")
        self.sql("DELETE FROM job_stats")
        self.sql(
            "TRUNCATE queues, job_permits, job_dependencies, job_endings, job_steps, job_events"
        )

    def close(self) -> None:
        async def close() -> None:
            await publisher_for(self.database.engine).close()
            await self.link.close()
            await self.database.close()

        self.do(close())
        self.runner.close()
