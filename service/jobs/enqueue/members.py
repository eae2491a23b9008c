"""New jobs that join a batch."""

from collections import Counter

from service.errors import Conflict, InvalidInput
from service.jobs import store
from service.jobs.core.batch import MAX_MEMBERS
from service.jobs.core.encoded_jobs import EncodedJobs
from service.jobs.core.new_job import EnqueuedJob
from service.jobs.store.enqueue import Fetch


async def hold_open(run: Fetch, jobs: EncodedJobs) -> None:
    """Keep the batches of jobs open to the end of the transaction.

    Raises:
        InvalidInput: there is no such batch, or it is another caller's, or it would have too many jobs.
        Conflict: it is closed.
    """
    wanted = Counter(one for one in jobs.columns["batch_id"] if one is not None)
    caller = jobs.columns["enqueued_by"][0]
    found = await store.batches.opened(run, wanted)
    for batch_id, count in wanted.items():
        batch = found.get(batch_id)
        if batch is None or (caller is not None and batch.created_by != caller):
            raise InvalidInput(
                f"batch_id is {batch_id}: there is no such batch of yours", field="batch_id"
            )
        if not batch.open:
            raise Conflict(f"Batch {batch_id} is closed: no job can join it")
        if batch.jobs + count > MAX_MEMBERS:
            raise InvalidInput(
                f"Batch {batch_id} has {batch.jobs} jobs: with {count} more it would have more than "
                f"{MAX_MEMBERS}",
                field="batch_id",
            )


async def count_in(run: Fetch, jobs: EncodedJobs, enqueued: list[EnqueuedJob]) -> None:
    """Count the jobs that were made for their batches; all of them, where `enqueued` is empty."""
    made = [job.created for job in enqueued] or [True] * len(jobs)
    ids = zip(jobs.columns["batch_id"], made, strict=True)
    counts = Counter(batch_id for batch_id, created in ids if created and batch_id is not None)
    if counts:
        await store.batches.add_members(run, counts)
