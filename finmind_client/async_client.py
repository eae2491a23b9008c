"""The client for asyncio. `client.py` is made of this file: `make docs`."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

import httpx

from finmind_client import calls
from finmind_client.async_admin import AsyncAdmin
from finmind_client.async_batches import AsyncBatches
from finmind_client.async_events import follow
from finmind_client.async_schedules import AsyncSchedules
from finmind_client.calls import Call
from finmind_client.errors import JobNotEnded, NotReached
from finmind_client.job_events import JobEvent
from finmind_client.models import Enqueued, Job, JobOptions, NewJob
from finmind_client.retries import Retry, may_repeat

T = TypeVar("T")

LONGEST_POLL_SECONDS: Final = 30
"""How long one request waits for a job to end; the service allows a minute."""


class AsyncClient:
    """Talks to one FinMind Jobs service; close it, or use it as a context manager.

    Calls are made again as `retry` says, those that enqueue with an idempotency key: a job is enqueued once
    however often its request is sent.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeout_seconds: float = 10.0,
        retry: Retry | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Connections are made when they are needed.

        Args:
            base_url: where the service is, such as `https://jobs.example.com`, with its root path.
            token: an API key or a bearer token.
            timeout_seconds: for each step of a request: connecting, sending, each read of the answer.
            retry: by default five attempts, with pauses of four seconds at most in all.
            transport: of httpx, in place of the network; for tests.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout_seconds = timeout_seconds
        self._retry = retry or Retry()
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=headers, timeout=timeout_seconds, transport=transport
        )
        self.admin: Final = AsyncAdmin(self)
        """What operators do."""
        self.schedules: Final = AsyncSchedules(self)
        """Rules that enqueue a job at each tick."""
        self.batches: Final = AsyncBatches(self)
        """Named sets of jobs."""

    async def __aenter__(self) -> Self:
        """Nothing is connected yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def enqueue(
        self,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Enqueue a job.

        Args:
            job_type: the name of its handler.
            payload: a JSON object.
            idempotency_key: names the request: made again with it, even by another process, it gives
                the same job. By default one is made for this call.
            options: the other members of `NewJob`, by name.

        Raises:
            InvalidInput: a value breaks a rule; the error names it.
            Conflict: another job has its `unique_key`.
            NotReached: the service did not answer.
        """
        return await self.enqueue_job(
            NewJob(job_type, payload or {}, **options), idempotency_key=idempotency_key
        )

    async def enqueue_job(self, job: NewJob, *, idempotency_key: str | None = None) -> Job:
        """The same of a `NewJob`."""
        return await self.send(calls.enqueue(job, idempotency_key=idempotency_key))

    async def enqueue_batch(
        self, jobs: Sequence[NewJob], *, idempotency_key: str | None = None
    ) -> Enqueued:
        """Enqueue jobs in one transaction: all, or none.

        Raises:
            InvalidInput: one of them breaks a rule, or there are too many; the error names it.
            Conflict: another job has the `unique_key` of one of them.
            NotReached: the service did not answer.
        """
        return await self.send(calls.enqueue_batch(jobs, idempotency_key=idempotency_key))

    async def enqueue_chain(
        self, jobs: Sequence[NewJob], *, idempotency_key: str | None = None
    ) -> Enqueued:
        """Enqueue jobs of which each waits for the one before it: all, or none.

        Raises:
            InvalidInput: one of them breaks a rule; the error names it.
        """
        return await self.send(calls.chain(jobs, idempotency_key=idempotency_key))

    async def get(self, job_id: int) -> Job:
        """Read a job.

        Raises:
            NotFound: there is none that the caller may read.
        """
        return await self.send(calls.get(job_id))

    async def wait(self, job_id: int, *, timeout_seconds: float = 60.0) -> Job:
        """Wait until a job has ended.

        Raises:
            JobNotEnded: it had not when the time was over.
            NotFound: there is none that the caller may read.
        """
        until = time.monotonic() + timeout_seconds
        pause = 0.1
        while True:
            began = time.monotonic()
            seconds = min(int(max(0.0, until - began)), LONGEST_POLL_SECONDS)
            job = await self.send(calls.get(job_id, wait_seconds=seconds))
            if job.ended:
                return job
            left = until - time.monotonic()
            if left <= 0:
                raise JobNotEnded(f"Job {job_id} is {job.status} after {timeout_seconds:g} s")
            if time.monotonic() - began < pause:  # a service of the version before does not wait
                await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, 2.0)

    def events(self, job_id: int, *, last_event_id: str | None = None) -> AsyncIterator[JobEvent]:
        """Follow a job: what happens to it, as it happens, until its end.

        First how it stands, and all that it has logged. A stream that is cut off is begun again where it was:
        each line comes once, of status and progress the newest.

        Args:
            job_id: its id.
            last_event_id: the `id` of the last event that was read, to go on after it.

        Raises:
            NotFound: there is none that the caller may read.
            NotAllowed: another caller enqueued it.
            NotReached: the service did not answer, as often as `retry` says, in a row.
        """
        return follow(
            self._http,
            job_id,
            retry=self._retry,
            timeout_seconds=self._timeout_seconds,
            last_event_id=last_event_id,
        )

    async def explain(self, job_id: int) -> Mapping[str, Any]:
        """Why a job does not run, since when, and what to do: the members of `GET /jobs/{id}/explain`."""
        return await self.send(calls.explain(job_id))

    async def send_event(
        self, job_id: int, name: str, data: Any = None, *, reason: str | None = None
    ) -> Mapping[str, Any]:
        """Send a job the event that its handler waits for; one before its wait is kept, the first counts.

        Args:
            job_id: its id.
            name: of the event.
            data: any JSON: what the wait returns.
            reason: for the audit log.

        Raises:
            Conflict: the job has ended.
        """
        return await self.send(calls.send_event(job_id, name, data, reason=reason))

    async def with_key(self, unique_key: str) -> list[Mapping[str, Any]]:
        """The jobs that have, or had, this unique key, newest first."""
        return await self.send(calls.with_key(unique_key))

    async def cancel(self, job_id: int, *, reason: str | None = None) -> Job:
        """Cancel a job that the caller enqueued; one that runs is told to stop.

        Raises:
            Conflict: it has ended.
        """
        return await self.send(calls.cancel(job_id, reason=reason))

    async def change(self, job_id: int, *, if_match: str | None = None, **changes: Any) -> Job:
        """Change a PENDING job that the caller enqueued.

        Args:
            job_id: its id.
            if_match: an `etag`: it is changed only if nothing has changed it since that was read.
            changes: `payload`, `run_at`, `queue`, `priority`, `max_retries`, … by name.

        Raises:
            Conflict: it is not PENDING, or has changed.
            InvalidInput: a value breaks a rule.
        """
        return await self.send(calls.change(job_id, changes, if_match=if_match))

    async def run_now(self, job_id: int) -> Job:
        """Make a PENDING job that the caller enqueued due at once."""
        return await self.send(calls.run_now(job_id))

    async def send(self, call: Call[T]) -> T:
        """Make a call, and make it again as long as that may help.

        Raises:
            ApiError: the service refused it.
            NotReached: it did not answer.
        """
        attempt = 0
        while True:
            attempt += 1
            answer: httpx.Response | None = None
            error: httpx.TransportError | None = None
            try:
                answer = await self._http.request(
                    call.method,
                    call.path,
                    json=call.body,
                    content=call.content,
                    params=dict(call.params),
                    headers=calls.headers_of(call),
                    timeout=self._timeout_seconds + call.waits_seconds,
                )
            except httpx.TransportError as caught:
                error = caught
            if answer is not None and answer.is_success:
                return call.read(answer)
            refusal = None if answer is None else calls.failed(answer)
            status = None if answer is None else answer.status_code
            delay = None
            if may_repeat(status=status, error=error, repeatable=call.repeatable):
                asked = None if refusal is None else refusal.retry_after_seconds
                delay = self._retry.delay(attempt, asked)
            if delay is None:
                if refusal is not None:
                    raise refusal
                raise NotReached(
                    f"{call.method} {str(self._http.base_url).rstrip('/')}{call.path} was not answered in "
                    f"{attempt} attempts: {type(error).__name__}"
                ) from error
            await asyncio.sleep(delay)
