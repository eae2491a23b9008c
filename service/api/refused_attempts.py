"""Notes in the audit log who was refused what: every answer 403 to a caller who is known."""

from fastapi import Request

from service.api.actor import acting
from service.audit.refused_attempts import RefusedAttempts
from service.auth.principal import Principal
from service.errors import Forbidden


async def note_refused_attempt(
    request: Request, principal: Principal | None, error: Forbidden
) -> None:
    """Note that the caller of `request` was refused; a stranger is 401, and no one to be named."""
    if principal is None:
        return
    attempts: RefusedAttempts = request.app.state.service.refused_attempts
    await attempts.note(
        acting(request, principal),
        route=f"{request.method} {_route_of(request)}",
        path=request.url.path,
        permission=error.scope,
        detail=error.detail,
    )


def _route_of(request: Request) -> str:
    """The path with names in place of ids: one that is tried on many jobs is one entry."""
    path: str = request.scope["route"].path
    return path
