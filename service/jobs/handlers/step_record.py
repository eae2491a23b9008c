"""What the steps of one attempt share: what the job has stored, what it may store, and how."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Self, TypeVar

from service.errors import PayloadError
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.encoding import dump_json
from service.jobs.core.job import JobId
from service.jobs.core.outcomes import Suspend
from service.jobs.core.steps import (
    AttemptStopped,
    NewStep,
    StepError,
    StepKind,
    StoredStep,
    check_name,
    size_of,
)
from service.settings import Settings

LOOK_SECONDS: Final = 1.0
"""How often a thread that waits for the database looks whether its attempt was stopped."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What a job may keep of its steps."""

    steps: int
    bytes: int
    """Of all its results."""
    result_bytes: int
    """Of one."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The limits that the settings set."""
        return cls(settings.job_steps, settings.job_step_bytes, settings.max_payload_bytes)


@dataclass(frozen=True, slots=True)
class StepAccess:
    """What steps need of the worker."""

    limits: StepLimits
    read: Callable[[JobId], Coroutine[Any, Any, dict[str, StoredStep]]]
    store: Callable[[NewStep], Coroutine[Any, Any, bool]]
    """False: there is one of that name, which stays. Raises AttemptStopped where the lease is lost."""
    end_wait: Callable[[Lease, str], Coroutine[Any, Any, StoredStep | None]]
    """What a wait for an event has come to; None: it goes on."""
    call: Callable[..., Coroutine[Any, Any, Any]]
    """Calls a plain function in a thread: see `HandlerThreads.call`."""


class StepRecord:
    """The steps of one attempt. The first use reads what the job has stored; each new one writes.

    Args:
        job: the job, under its lease.
        access: what they need of the worker.
        loop: the event loop of the worker.
        stopped: whether the attempt was told to stop.
    """

    def __init__(
        self,
        job: ClaimedJob,
        access: StepAccess,
        *,
        loop: asyncio.AbstractEventLoop,
        stopped: Callable[[], bool],
    ) -> None:
        self.access = access
        self.stopped = stopped
        self.suspension: Suspend | None = None
        """Why the attempt ends here, and the job goes on later."""
        self._job = job
        self._loop = loop
        self._taken: set[str] = set()
        self._begun: set[str] = set()
        """Those that are not stored yet; steps of a `TaskGroup` run beside each other."""
        self._names_lock = threading.Lock()  # plain handlers may have threads of their own
        self._stored: dict[str, StoredStep] | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._bytes = 0

    def take(self, name: str) -> None:
        """Begin a step.

        Raises:
            StepError: it has no valid name, or the attempt has had one of that name.
            Suspend: the attempt is over: a step before it waits.
        """
        if self.suspension is not None:
            raise self.suspension
        check_name(name)
        with self._names_lock:
            if name in self._taken:
                raise StepError(
                    f"This attempt has had a step {name!r}: each step of a job needs a name of its own,"
                    ' such as f"send:{customer}" in a loop'
                )
            self._taken.add(name)

    def give_back(self, name: str) -> None:
        """Have a step tried again that has stored nothing."""
        self._taken.discard(name)
        self._begun.discard(name)

    def suspend(self, name: str, kind: StepKind) -> Suspend:
        """The end of the attempt, to be raised: the job waits at this step."""
        self.suspension = Suspend(name, kind.value)
        return self.suspension

    async def find(self, name: str, kind: StepKind) -> StoredStep | None:
        """What the job has stored under this name.

        Raises:
            StepError: another kind of step; or nothing, and it has as many steps as it may.
        """
        stored = await self._all_stored()
        known = stored.get(name)
        if known is None:
            if len(stored) + len(self._begun) >= self.access.limits.steps:
                raise StepError(
                    f"The job has {len(stored) + len(self._begun)} steps; at most {self.access.limits.steps} are allowed"
                    " (JOB_STEPS): put several things into one step, or enqueue a job for each"
                )
            self._begun.add(name)
        elif known.kind != kind:
            raise StepError(
                f"Step {name!r} of this job was stored as a {known.kind}, and is asked for as a {kind}:"
                " give a step that changes its kind a new name"
            )
        return known

    def seconds_left(self, step: StoredStep) -> float:
        """How long a step that was found has to wait yet."""
        return step.seconds_left - (time.monotonic() - self._read_at)

    def encoded(self, name: str, value: object) -> str | None:
        """A result as JSON text; None for null.

        Raises:
            StepError: it has no JSON form, or is over a limit.
        """
        if value is None:
            return None
        limits = self.access.limits
        try:
            text = dump_json(value, what=f"result of step {name!r}", max_bytes=limits.result_bytes)
        except PayloadError as error:
            raise StepError(error.detail) from None
        self._bytes += size_of(text)
        if self._bytes > limits.bytes:
            raise StepError(
                f"The results of the job's steps take more than {limits.bytes} bytes (JOB_STEP_BYTES)"
                f" with that of {name!r}: store large data elsewhere and return a reference"
            )
        return text

    async def store(
        self, name: str, kind: StepKind, *, seconds: float = 0.0, **values: Any
    ) -> StoredStep:
        """Store a step that began so many seconds ago; what is stored.

        `values` are members of `NewStep`: a result, or a wait.
        """
        job, stored = self._job, await self._all_stored()
        step = NewStep(job.lease, job.job_type, name, kind, job.attempt, seconds, **values)
        if await self.access.store(step):
            stored[name] = StoredStep(kind, step.result, is_done=step.wait_seconds is None)
        else:  # by an earlier try of this attempt, which was cancelled while it was stored
            stored |= await self.access.read(job.id)
        self._begun.discard(name)
        return stored[name]

    async def end_wait(self, name: str) -> StoredStep | None:
        """What a wait for an event has come to; None: it goes on."""
        ended = await self.access.end_wait(self._job.lease, name)
        if ended is not None:
            (await self._all_stored())[name] = ended
        return ended

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait in a thread for what is done on the event loop, unless the attempt is stopped."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            try:
                return future.result(LOOK_SECONDS)
            except TimeoutError:
                if future.done():
                    return future.result()
                if self.stopped():
                    future.cancel()
                    raise AttemptStopped("The attempt was stopped") from None

    async def _all_stored(self) -> dict[str, StoredStep]:
        async with self._reading:
            if self._stored is None:
                self._stored = await self.access.read(self._job.id)
                self._read_at = time.monotonic()
                self._bytes += sum(size_of(step.result) for step in self._stored.values())
            return self._stored
