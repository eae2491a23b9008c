"""Ask workers that claim over HTTP to claim no more, with an audit entry."""

from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
from service.errors import Conflict, NotFound
from service.jobs import store
from service.jobs.store.remote_workers import Draining


async def drain(
    session: AsyncSession, worker_id: int, *, actor: Actor, reason: str | None
) -> Draining:
    """Have a worker claim no more; asking again changes nothing.

    Raises:
        NotFound: no such worker is known.
        Conflict: it is a process of the service, or has stopped.
    """
    asked = await store.remote_workers.ask_drain(session, worker_id)
    if asked is None:
        name = await store.workers.name_of(session, worker_id)
        if name is None:
            raise NotFound(f"There is no worker {worker_id}: GET /admin/workers lists them")
        raise Conflict(
            f"Worker {worker_id} ({name}) has stopped, or is a process of the service: end that with "
            "SIGTERM, and it drains"
        )
    if asked.changed:
        await audit.record(
            session, actor, "worker.drain", subject_type="worker", subject_id=str(worker_id),
            before={"name": asked.name, "owner": asked.owner, "drain_asked_at": None},
            after={"drain_asked_at": asked.drain_asked_at.isoformat()}, reason=reason,
        )  # fmt: skip
    return asked
