"""Close a target's breaker by hand."""

from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
from service.errors import Conflict, NotFound
from service.targets import repository
from service.targets.repository import Target


async def read_target(session: AsyncSession, name: str, *, lock: bool = False) -> Target:
    """One target.

    Raises:
        NotFound: no job was sent to it lately.
    """
    found = await repository.find(session, name, lock=lock)
    if found is None:
        raise NotFound(
            f"There is no target {name[:300]}: a target is a host and a port that http.request jobs were "
            "sent to within the last 7 days, such as crm.example.com:443"
        )
    return found


async def reset_target(
    session: AsyncSession, name: str, *, actor: Actor | None, reason: str | None = None
) -> Target:
    """Close the breaker of a target: what is held for it is let go within seconds, in every process.

    If the target fails as before, the breaker opens again after as many failures as ever.

    Raises:
        NotFound: no job was sent to it lately.
        Conflict: its breaker is closed.
    """
    before = await read_target(session, name, lock=True)
    if before.opened_at is None:
        raise Conflict(
            f"The breaker of {name} is closed: its jobs are sent, and nothing is held for it"
        )
    await repository.reset(session, name)
    await audit.record(
        session, actor, "target.reset", subject_type="target", subject_id=name, reason=reason,
        before={"state": before.state, "opened_at": before.opened_at, "last_error": before.last_error},
        after={"state": "closed"},
    )  # fmt: skip
    return await read_target(session, name)
