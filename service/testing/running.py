"""Runs due jobs one after the other, each with a pass of the engine."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import text

from service.errors import ConfigurationError, InvalidInput
from service.jobs import Registry
from service.jobs.run_once import run_pass
from service.jobs.worker.pipeline import Pipeline
from service.settings import Settings
from service.testing.ran import Ran, Recorder
from service.testing.transaction import TransactionDatabase

_UNSERVED: Final = text("""
SELECT job_type, count(*) AS jobs FROM finmind_jobs.jobs_live
WHERE status = 'PENDING' AND next_run_at <= now() AND NOT job_type = ANY (CAST(:served AS text[]))
GROUP BY 1 ORDER BY 1 LIMIT 10""")


class Runner:
    """Runs the due jobs of one test."""

    def __init__(
        self, database: TransactionDatabase, settings: Settings, handlers: Registry
    ) -> None:
        self._database = database
        self._settings = settings
        self._handlers = handlers

    async def run_due(
        self, job_types: Collection[str] | None, *, raise_errors: bool, limit: int
    ) -> list[Ran]:
        """Run what is due; see `Jobs.run_due`."""
        only = None if job_types is None else self._checked(job_types)
        ran: list[Ran] = []
        while attempts := await self._run_one(only):
            ran += attempts
            if raise_errors:
                for one in attempts:
                    one.raise_error()
            if len(ran) >= limit:
                raise ConfigurationError(
                    f"{len(ran)} attempts ran and more may be due (the last: {ran[-1].job_type}): does a handler "
                    "enqueue its own job again? Give run_due another limit if not"
                )
        if only is None:
            await self._refuse_unserved()
        return ran

    async def _run_one(self, only: frozenset[str] | None) -> list[Ran]:
        # A pipeline for each: no duty of the engine is left that could use the connection after it.
        recorder = Recorder()
        handlers = recorder.registry(self._handlers, only=only)
        pipeline = Pipeline(self._database, self._settings, handlers=handlers)
        pipeline.settler.answer = recorder.recorded
        self._database.watch(pipeline)
        await run_pass(pipeline, 1, fail_unserved=False)
        return recorder.ran

    def _checked(self, job_types: Collection[str]) -> frozenset[str]:
        names = frozenset([job_types] if isinstance(job_types, str) else job_types)
        for name in sorted(names):
            if self._handlers.get(name) is None:
                raise InvalidInput(
                    f"job_types names {name!r}, and no handler is registered for it: {self._known()}",
                    field="job_types",
                )
        return names

    async def _refuse_unserved(self) -> None:
        """Refuse to leave jobs behind that nothing in this process could run."""
        connection = await self._database.renew()
        served = self._handlers.job_types()
        rows = (await connection.execute(_UNSERVED, {"served": served})).all()
        if rows:
            named = ", ".join(f"{row.job_type!r} ({row.jobs})" for row in rows)
            raise ConfigurationError(
                f"Jobs are due that no handler is registered for, {named}: {self._known()}, or name those to run by "
                "run_due(job_types=[…])"
            )

    def _known(self) -> str:
        known = ", ".join(self._handlers.job_types()) or "none"
        return f"import the module that registers it (registered: {known})"
