"""Without asyncio. Made of `async_admin.py`: change that, and run `make docs`."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from finmind_client import admin_calls as calls
from finmind_client.admin_calls import Decision, Document, OperationVerb
from finmind_client.errors import JobNotEnded
from finmind_client.models import Job

if TYPE_CHECKING:
    from finmind_client.client import Client

GOES_ON: Final = frozenset({"running", "paused"})
"""States of operations that have not ended."""


class Admin:
    """What operators do; the credential needs their permissions.

    Objects without a class of their own come as the API describes them: `GET /openapi.json`.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client

    def jobs(self, *, page_size: int = 100, **filters: Any) -> Iterator[Job]:
        """The jobs that match, newest first, page by page.

        Args:
            page_size: how many a request brings.
            filters: the query parameters of `GET /admin/jobs` by name: `status`, `job_type`, `queue`, …
        """
        cursor: str | None = None
        while True:
            page = self._client.send(calls.jobs(filters, cursor=cursor, limit=page_size))
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    def job(self, job_id: int) -> Document:
        """A job with its history, steps and errors.

        Raises:
            NotFound: there is none.
        """
        return self._client.send(calls.job(job_id))

    def logs(self, job_id: int) -> Iterator[Document]:
        """The lines that a job has logged, page by page."""
        after: str | int | None = None
        while True:
            assert after is None or isinstance(after, int)
            page = self._client.send(calls.logs(job_id, after=after))
            for line in page.items:
                yield line
            after = page.cursor
            if after is None:
                return

    def retry(self, job_id: int, *, reason: str | None = None) -> Job:
        """Run a DEAD_LETTER or FAILED job again.

        Raises:
            Conflict: it is neither.
        """
        return self._client.send(calls.retry(job_id, reason=reason))

    def cancel(self, job_id: int, *, reason: str | None = None) -> Job:
        """Cancel anybody's job; one that runs is told to stop.

        Raises:
            Conflict: it has ended.
        """
        return self._client.send(calls.cancel(job_id, reason=reason))

    def run_now(self, job_id: int, *, reason: str | None = None) -> Job:
        """Make anybody's PENDING job due at once."""
        return self._client.send(calls.run_now(job_id, reason=reason))

    def delete(self, job_id: int, *, reason: str | None = None) -> None:
        """Delete a job that does not run."""
        self._client.send(calls.delete(job_id, reason=reason))

    def stats(self) -> Document:
        """How many jobs there are, by status, type and queue."""
        return self._client.send(calls.stats())

    def queues(self) -> Sequence[Document]:
        """The queues, with what waits and runs, and their limits."""
        return self._client.send(calls.queues())

    def change_queue(self, name: str, **changes: Any) -> Document:
        """Pause or resume a queue, or set its limits: the members of `PATCH /queues/{name}`."""
        return self._client.send(calls.change_queue(name, changes))

    def workers(self) -> Sequence[Document]:
        """The workers, with what they serve and run."""
        return self._client.send(calls.workers())

    def drain(self, worker_id: int, *, reason: str | None = None) -> Document:
        """Have a worker over HTTP claim no more, end its jobs, and stop.

        Raises:
            NotFound: there is none of that id, or it has stopped.
        """
        return self._client.send(calls.drain(worker_id, reason=reason))

    def dead_letters(self, **filters: Any) -> Iterator[Document]:
        """The causes that jobs died of, page by page: `state`, `job_type`, `text`, `sort`, `limit`."""
        return self._pages("/admin/dead-letters/groups", "groups", filters)

    def decide(
        self,
        fingerprint: str,
        decision: Decision,
        *,
        reason: str | None = None,
        until: datetime | None = None,
        count: int | None = None,
    ) -> Document:
        """Say what was done about a cause of dead letters.

        Args:
            fingerprint: of the cause.
            decision: `resolve` (a new failure makes it regressed), `ignore`, or `reopen`.
            reason: for the audit log.
            until: a cause that is ignored is open again then.
            count: the same after so many further failures.
        """
        ends = None if until is None else until.isoformat()
        members = {"reason": reason, "until": ends, "count": count}
        return self._client.send(calls.decide(fingerprint, decision, members))

    def preview(self, action: str, **selection: Any) -> Document:
        """How many jobs an operation would act on, with some of them; changes nothing."""
        return self._client.send(calls.preview({"action": action, **selection}))

    def start(
        self, action: str, *, idempotency_key: str | None = None, **selection: Any
    ) -> Document:
        """Begin to act on many jobs: `start("retry", filter={"job_type": "mail"}, reason="mended")`.

        Args:
            action: `retry`, `cancel`, `delete`, `move`, … as in `POST /admin/operations`.
            idempotency_key: names the request; by default one is made for this call.
            selection: the other members of `POST /admin/operations` by name: `filter`, `ids`, `group`, `rate`, …

        Raises:
            InvalidInput: a value breaks a rule; the error names it.
        """
        members = {"action": action, **selection}
        return self._client.send(calls.start(members, idempotency_key=idempotency_key))

    def operation(self, operation_id: int) -> Document:
        """An operation, and how far it is."""
        return self._client.send(calls.operation(operation_id))

    def wait_operation(self, operation_id: int, *, timeout_seconds: float = 60.0) -> Document:
        """Wait until an operation has ended, or was stopped; looks every two seconds at least.

        Raises:
            JobNotEnded: it had not when the time was over.
        """
        until, pause = time.monotonic() + timeout_seconds, 0.1
        while True:
            found = self.operation(operation_id)
            if found["state"] not in GOES_ON:
                return found
            left = until - time.monotonic()
            if left <= 0:
                raise JobNotEnded(
                    f"Operation {operation_id} is {found['state']} after {timeout_seconds:g} s"
                )
            time.sleep(min(pause, left))
            pause = min(2 * pause, 2.0)

    def change_operation(
        self, operation_id: int, verb: OperationVerb, *, reason: str | None = None
    ) -> Document:
        """Pause, resume or cancel an operation.

        Raises:
            Conflict: it is not in a state that allows this.
        """
        return self._client.send(calls.change_operation(operation_id, verb, reason=reason))

    def operations(self, **filters: Any) -> Iterator[Document]:
        """The operations, newest first, page by page: `unfinished`, `limit`."""
        return self._pages("/admin/operations", "operations", filters)

    def audit(self, **filters: Any) -> Iterator[Document]:
        """Who did what, newest first, page by page; filters are those of `GET /admin/audit`."""
        return self._pages("/admin/audit", "entries", filters)

    def targets(self, **filters: Any) -> Iterator[Document]:
        """The HTTP targets that were called, page by page: `state`, `limit`."""
        return self._pages("/targets", "targets", filters)

    def reset_target(self, name: str, *, reason: str | None = None) -> Document:
        """Let a target that kept failing be called again at once."""
        return self._client.send(calls.reset_target(name, reason=reason))

    def _pages(self, path: str, member: str, filters: Document) -> Iterator[Document]:
        cursor: str | None = None
        while True:
            page = self._client.send(calls.page(path, member, filters, cursor=cursor))
            for item in page.items:
                yield item
            if page.cursor is None:
                return
            cursor = str(page.cursor)
