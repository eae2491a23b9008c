"""Read batches, with their counts."""

from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import NotFound
from service.jobs import store
from service.jobs.core.batch import Batch
from service.jobs.core.job import MAX_ID


async def get_batch(session: AsyncSession, batch_id: int) -> Batch:
    """A batch; its counts are exact as of one moment.

    Raises:
        NotFound: there is no such batch; its retention may be over.
    """
    batch = await store.batch_listing.get(session, batch_id)
    if batch is None:
        raise NotFound(f"There is no batch {batch_id}")
    return batch


async def list_batches(
    session: AsyncSession,
    *,
    limit: int,
    before_id: int = MAX_ID,
    created_by: str | None = None,
    unfinished: bool = False,
) -> list[Batch]:
    """The newest batches below an id; running jobs are not counted.

    Args:
        session: read in its transaction.
        limit: how many.
        before_id: where the page begins.
        created_by: only this caller's.
        unfinished: only those that are not complete.
    """
    return await store.batch_listing.listed(
        session, before_id=before_id, created_by=created_by, unfinished=unfinished, limit=limit
    )
