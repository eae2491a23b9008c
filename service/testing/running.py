"""Runs due jobs one after the other, each with a pass of the engine."""

from collections.abc import Collection, Sequence
from typing import Final

from sqlalchemy import text

from service.errors import ConfigurationError, InvalidInput
from service.jobs import Registry
from service.jobs.handlers.registry import HandlerSpec
from service.jobs.run_once import run_pass
from service.jobs.worker.pipeline import Pipeline
from service.jobs.worker.slots import Slots
from service.settings import Settings
from service.testing.ran import Ran, Recorder
from service.testing.target import FakeTarget
from service.testing.transaction import TransactionDatabase

_UNSERVED: Final = text("""
SELECT job_type, count(*) AS jobs FROM finmind_jobs.jobs_live
WHERE status = 'PENDING' AND next_run_at <= now() AND NOT job_type = ANY (CAST(:served AS text[]))
GROUP BY 1 ORDER BY 1 LIMIT 10""")

_MAY_RUN: Final = text("""
SELECT EXISTS (SELECT FROM finmind_jobs.jobs_live
    WHERE job_type = ANY (CAST(:job_types AS text[])) AND (next_run_at <= now() OR held_for IS NOT NULL))
  OR EXISTS (SELECT FROM finmind_jobs.job_endings)""")
"""Whether a pass may find something; one that cannot is not begun."""


class Runner:
    """Runs the due jobs of one test."""

    def __init__(
        self,
        database: TransactionDatabase,
        settings: Settings,
        handlers: Registry,
        *,
        target: FakeTarget,
    ) -> None:
        self._database = database
        self._settings = settings
        self._handlers = handlers
        self._target = target

    async def run_due(
        self, job_types: Collection[str] | None, *, raise_errors: bool, limit: int
    ) -> list[Ran]:
        """Run what is due; see `Jobs.run_due`."""
        __tracebackhide__ = True
        only = self.served() if job_types is None else self._checked(job_types)
        ran: list[Ran] = []
        while attempts := await self._run_next(only) or await self._tend(only):
            ran += attempts
            if raise_errors:
                for one in attempts:
                    one.raise_error()
            if len(ran) >= limit:
                raise ConfigurationError(
                    f"{len(ran)} attempts ran and more may be due (the last: {ran[-1].job_type}): does a handler "
                    "enqueue its own job again? Give run_due another limit if not"
                )
        if job_types is None:
            await self._refuse_unserved()
        return ran

    async def _tend(self, only: Collection[str]) -> list[Ran]:
        """Run what a round over the breakers of targets lets go."""
        return await self._run_next(only) if await self._target.tend() else []

    async def _run_next(self, only: Collection[str]) -> list[Ran]:
        """Run the next job; where none but jobs of chunks are due, the next chunk."""
        specs = [spec for name in sorted(only) if (spec := self._spec(name)) is not None]
        plain = [spec for spec in specs if spec.chunk is None]
        if plain and (ran := await self._pass(plain, limit=1)):
            return ran
        for spec in specs:
            if spec.chunk is not None and (ran := await self._pass([spec], limit=spec.chunk.jobs)):
                return ran
        return []

    async def _pass(self, specs: Sequence[HandlerSpec], *, limit: int) -> list[Ran]:
        connection = await self._database.renew()
        names = {"job_types": [spec.job_type for spec in specs]}
        if not (await connection.execute(_MAY_RUN, names)).scalar_one():
            return []
        # A pipeline for each: no duty of the engine is left that could use the connection after it.
        recorder = Recorder(self._database.handler)
        pipeline = Pipeline(
            self._database,
            self._settings,
            handlers=recorder.registry(specs),
            slots=Slots.parse(limit, self._settings.worker_queues),
        )
        pipeline.settler.answer = recorder.recorded
        await run_pass(pipeline, limit, fail_unserved=False)
        return recorder.ran

    def _spec(self, job_type: str) -> HandlerSpec | None:
        return self._target.handlers.get(job_type) or self._handlers.get(job_type)

    def served(self) -> list[str]:
        """The types that have a handler here."""
        return sorted({*self._handlers.job_types(), *self._target.handlers.job_types()})

    def _checked(self, job_types: Collection[str]) -> frozenset[str]:
        __tracebackhide__ = True
        names = frozenset([job_types] if isinstance(job_types, str) else job_types)
        for name in sorted(names):
            if self._spec(name) is None:
                raise InvalidInput(
                    f"job_types names {name!r}, and no handler is registered for it: {self._known()}",
                    field="job_types",
                )
        return names

    async def _refuse_unserved(self) -> None:
        """Refuse to leave jobs behind that nothing in this process could run."""
        __tracebackhide__ = True
        connection = await self._database.renew()
        rows = (await connection.execute(_UNSERVED, {"served": self.served()})).all()
        if rows:
            named = ", ".join(f"{row.job_type!r} ({row.jobs})" for row in rows)
            raise ConfigurationError(
                f"Jobs are due that no handler is registered for, {named}: {self._known()}, or name those to run by "
                "run_due(job_types=[…])"
            )

    def _known(self) -> str:
        known = ", ".join(self._handlers.job_types()) or "none"
        return f"import the module that registers it (registered: {known})"
