"""Batches, for asyncio. `batches.py` is made of this file: `make docs`."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from finmind_client import batch_calls as calls
from finmind_client.batch_calls import Document
from finmind_client.models import Enqueued, NewJob

if TYPE_CHECKING:
    from finmind_client.async_client import AsyncClient


class AsyncBatches:
    """Named sets of jobs, with a job that is enqueued once all of them have ended.

    Batches come as the API describes them: `id`, `state`, `counts`, …
    """

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    async def create(
        self, name: str, *, on_complete: NewJob | None = None, on_failure: NewJob | None = None
    ) -> Document:
        """Make a batch; jobs join it by `add`, or by their `batch_id`, until it is closed.

        Args:
            name: for people; need not be unique.
            on_complete: enqueued once, when the batch is closed and all its jobs have ended.
            on_failure: enqueued once, when the first job ends FAILED or DEAD_LETTER.
        """
        call = calls.create(name, on_complete=on_complete, on_failure=on_failure)
        return await self._client.send(call)

    async def add(
        self, batch_id: int, jobs: Sequence[NewJob], *, idempotency_key: str | None = None
    ) -> Enqueued:
        """Enqueue jobs of a batch in one transaction: all, or none.

        Raises:
            Conflict: it is closed.
            InvalidInput: one of them breaks a rule; the error names it.
        """
        call = calls.add(batch_id, jobs, idempotency_key=idempotency_key)
        return await self._client.send(call)

    async def close(self, batch_id: int) -> Document:
        """No more jobs come: once all have ended, the batch is complete."""
        return await self._client.send(calls.close(batch_id))

    async def get(self, batch_id: int) -> Document:
        """Read a batch, with its counts.

        Raises:
            NotFound: there is none that the caller may read.
        """
        return await self._client.send(calls.get(batch_id))

    async def cancel(self, batch_id: int, *, reason: str | None = None) -> Document:
        """Close a batch, and cancel its jobs that have not ended."""
        return await self._client.send(calls.cancel(batch_id, reason=reason))

    async def list(self, *, unfinished: bool | None = None) -> AsyncIterator[Document]:
        """The batches, newest first, page by page."""
        cursor: str | None = None
        while True:
            page = await self._client.send(calls.page(unfinished=unfinished, cursor=cursor))
            for batch in page.batches:
                yield batch
            cursor = page.next_cursor
            if cursor is None:
                return
