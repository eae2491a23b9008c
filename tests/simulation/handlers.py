"""Jobs of a simulation, and handlers that do in each run what the payload says."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any, Final

from service.jobs import (
    AttemptStopped,
    Backoff,
    ChunkJob,
    EventTimeout,
    JobContext,
    NewJob,
    PermanentError,
    Registry,
    RetryAfter,
    Snooze,
)
from service.jobs.core.outcomes import Suspend
from tests.simulation.checker import Checker
from tests.simulation.clock import PROCESS, VirtualLoop
from tests.simulation.invariants import RETURNED, SUSPENDED, Run
from tests.simulation.limits import Limits
from tests.simulation.model import REFUSED
from tests.simulation.steps import EVENT

BACKOFF: Final = Backoff(0.5, 2.0, 8.0, 0.2)
ASYNC_TYPES: Final = ("work", "rare")
THREAD_TYPE: Final = "thread"
UNSERVED_TYPE: Final = "nobody"
TIMEOUT_SECONDS: Final = {"work": 12.0, "rare": 30.0, "thread": 12.0}

CHUNK: Final[dict[str, Any]] = {"chunk": 3, "chunk_seconds": 0.4}
"""How jobs of the commonest type are put together in some seeds."""

AT_ONCE: Final = -1.0
"""Seconds of a run that waits for nothing, not even for a turn of the loop."""

QUICK: Final = (AT_ONCE, 0.0, 0.01, 0.3, 2.0)
SLOW: Final = (5.0, 9.0, 20.0)

BEHAVIOURS: Final = (
    "return", "return", "return", "fail", "fail", "permanent", "retry after", "snooze", "exit",
    "cancel itself", "bad result", "refused result", "stubborn", "stubborn", "stubborn", "break off", "report",
    "large result", "huge result",
)  # fmt: skip
SIZES: Final = {"large result": 100_000, "huge result": 200_000}
"""A slow server takes one that is large in time, and no second one; never one that is huge."""
FOR_THREADS: Final = ("return", "fail", "permanent", "snooze", "bad result")


@dataclass(frozen=True, slots=True)
class Mix:
    """What the jobs of one seed are like."""

    unkind: float
    """Share of runs that do something other than return."""
    slow: float
    """Share of runs that take longer than most; some of them longer than their timeout."""
    types: tuple[str, ...]

    @classmethod
    def draw(cls, rng: random.Random) -> "Mix":
        """One of many."""
        types = ["work", "work", "work"]
        types += [name for name in ("rare", THREAD_TYPE, UNSERVED_TYPE) if rng.random() < 0.3]
        return cls(rng.choice((0.0, 0.3, 0.7)), rng.choice((0.0, 0.1, 0.4)), tuple(types))

    def job(self, rng: random.Random) -> NewJob:
        """One job; after what its plan says it returns at once."""
        job_type = rng.choice(self.types)
        plan = [self._run(rng, job_type) for _ in range(rng.randint(1, 4))]
        return NewJob(
            job_type,
            plan,
            queue=rng.choice(("a", "a", "b")),
            priority=rng.choice((0, 2, 2)),
            max_retries=rng.choice((None, 0, 1, 2)),
            timeout_seconds=rng.choice((None, None, 4.0)),
            delay_seconds=rng.choice((None, None, None, 1.5, 15.0)),
        )

    def _run(self, rng: random.Random, job_type: str) -> tuple[str, float]:
        choices = FOR_THREADS if job_type == THREAD_TYPE else BEHAVIOURS
        behaviour = rng.choice(choices) if rng.random() < self.unkind else "return"
        seconds = rng.choice(SLOW if rng.random() < self.slow else QUICK)
        return behaviour, seconds


class Handlers:
    """Handlers of one process."""

    def __init__(
        self,
        loop: VirtualLoop,
        checker: Checker,
        types: list[str],
        *,
        limits: Limits,
        chunks: bool = False,
    ) -> None:
        self._loop = loop
        self._checker = checker
        self.registry = Registry()
        for job_type in types:
            function = self._thread if job_type == THREAD_TYPE else self._work
            together = chunks and job_type == ASYNC_TYPES[0]
            self.registry.handler(
                job_type,
                timeout=TIMEOUT_SECONDS[job_type],
                backoff=BACKOFF,
                max_running_per_key=limits.of_types.get(job_type),
                **(CHUNK if together else {}),
            )(self._chunk if together else function)

    async def _work(self, payload: Any, context: JobContext) -> object:
        run, behaviour, seconds, *operations = self._begin(payload, context)
        if operations:
            await self._take_steps(run, context, operations)
        if behaviour == "stubborn":
            until = self._loop.time() + seconds + 3.0
            while self._loop.time() < until:
                try:
                    await asyncio.sleep(until - self._loop.time())
                except asyncio.CancelledError:
                    continue
        else:
            await self._wait(run, behaviour, seconds)
        if behaviour == "report" and not await self._report(run, context):
            return None
        return self._end(run, behaviour)

    async def _chunk(self, jobs: list[ChunkJob[Any]]) -> None:
        """Each job by itself, at the same time; one whose plan says so fails all that are left."""
        process = PROCESS.get()
        assert process is not None
        self._checker.chunk_started(process, jobs, limit=CHUNK["chunk"])
        begun = [
            (job, *self._begin(job.payload, job, gather_seconds=CHUNK["chunk_seconds"])[:3])
            for job in jobs
        ]
        if any(behaviour == "exit" for _, _, behaviour, _ in begun):
            for _, run, _, _ in begun:
                self._checker.run_ended(run, "failed")
            raise SystemExit(3)
        await asyncio.gather(*(self._one_of_chunk(*one) for one in begun))

    async def _one_of_chunk(
        self, job: ChunkJob[Any], run: Run, behaviour: str, seconds: float
    ) -> None:
        try:
            await self._wait(run, behaviour, seconds)
            value = self._end(run, behaviour)
        except asyncio.CancelledError as error:
            if run.ended != "cancelled itself":
                raise
            job.fail(error)
        except Exception as error:
            job.fail(error)
        else:
            if value is not None:
                job.succeed(value)

    def _thread(self, payload: Any, context: JobContext) -> object:
        run, behaviour, seconds, *_ = self._begin(payload, context)
        self._loop.thread_seconds = max(0.0, seconds)
        return self._end(run, behaviour)

    async def _take_steps(self, run: Run, context: JobContext, operations: list[str]) -> None:
        """As a handler does that is made of steps: all of them in each run."""
        try:
            for number, operation in enumerate(operations):
                await self._take_step(run, context, str(number), *operation.split(":"))
        except Suspend:
            self._checker.run_ended(run, SUSPENDED)
            raise
        except AttemptStopped:
            self._checker.run_ended(run, "stopped")
            raise
        except asyncio.CancelledError:
            self._checker.run_ended(run, "cancelled")
            raise

    async def _take_step(
        self, run: Run, context: JobContext, name: str, kind: str, seconds: str
    ) -> None:
        ledger = self._checker.steps
        match kind:
            case "step":
                value = await context.step(name, self._step, run, name, float(seconds))
                ledger.returned(run, name, value)
            case "sleep":
                await context.sleep(float(seconds), name=name)
                ledger.slept(run, name, self._loop.time())
            case "event":
                try:
                    ledger.came(run, await context.wait_for_event(EVENT, timeout=float(seconds)))
                except EventTimeout:
                    ledger.came(run, None)

    async def _step(self, run: Run, name: str, seconds: float) -> dict[str, int]:
        self._checker.steps.called(run, name)
        await asyncio.sleep(seconds)
        return {"of": run.context.lease_token}

    def _begin(
        self, payload: Any, context: JobContext, *, gather_seconds: float = 0.0
    ) -> tuple[Any, ...]:
        process = PROCESS.get()
        assert process is not None
        run = self._checker.run_started(
            process,
            context,
            timeout_seconds=TIMEOUT_SECONDS[context.job_type],
            gather_seconds=gather_seconds,
        )
        nth = len(self._checker.runs_of[context.job_id]) - 1
        return run, *(payload[nth] if nth < len(payload) else ("return", AT_ONCE))

    async def _wait(self, run: Run, behaviour: str, seconds: float) -> None:
        if seconds == AT_ONCE:
            return
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if behaviour == "break off":
                self._checker.run_ended(run, "broke off")
                raise ConnectionError("cut in the middle of a call") from None
            self._checker.run_ended(run, "cancelled")
            raise

    async def _report(self, run: Run, context: JobContext) -> bool:
        """Tell of progress; False where the lease is lost, and there is nothing more to do."""
        try:
            if await context.progress(0.5, "half"):
                return True
        except asyncio.CancelledError:
            self._checker.run_ended(run, "cancelled")
            raise
        self._checker.run_ended(run, RETURNED)
        return False

    def _end(self, run: Run, behaviour: str) -> object:
        ended = self._checker.run_ended
        match behaviour:
            case "fail" | "break off":
                ended(run, "failed")
                raise ValueError("bad luck")
            case "exit":
                ended(run, "failed")
                raise SystemExit(3)
            case "permanent":
                ended(run, "permanent")
                raise PermanentError("no use")
            case "retry after":
                ended(run, "retry after")
                raise RetryAfter(1.0)
            case "snooze":
                ended(run, "snoozed")
                raise Snooze(2.0)
            case "cancel itself":
                ended(run, "cancelled itself")
                raise asyncio.CancelledError
            case "bad result":
                ended(run, "bad result")
                return float("nan")
            case "refused result":
                ended(run, "refused result")
                return REFUSED
        ended(run, RETURNED)
        return _result(run, behaviour)


def _result(run: Run, behaviour: str) -> object:
    if behaviour == "stubborn":
        return None
    of = {"of": run.context.lease_token}
    if behaviour not in SIZES and not behaviour.endswith(" bytes"):
        return of
    size = SIZES.get(behaviour) or int(behaviour.removesuffix(" bytes"))
    return of | {"with": "x" * size}
