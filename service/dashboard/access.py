"""Who may see a page, and whether a form came from one of our pages."""

from functools import cache
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Request, Security

from service.api.session import settings_of
from service.auth.dependencies import RequirePermission
from service.auth.principal import Permission, Principal
from service.auth.sessions import SessionStore
from service.errors import FinMindError, Forbidden
from service.observability.metrics import AUTH_FAILURES

COOKIE: Final = "__Host-finmind_session"
"""Browsers take a cookie of this prefix from a secure origin alone, for this host and every path."""

REFRESH_HEADER: Final = "x-refresh"
"""Sent by `live.js` when a page asks for itself again."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD"})


class SignInNeeded(FinMindError):
    """Nobody is signed in, or no longer."""

    status = 401
    title = "Not signed in"
    slug = "not-signed-in"


class RequireSignedIn(RequirePermission):
    """As `RequirePermission`, of who is signed in; no header with a credential is read."""

    def __init__(self, permission: Permission, *, by_itself: bool = False) -> None:
        """`by_itself`: pages ask for it without their reader, which is no use of the session."""
        super().__init__(permission)
        self._by_itself = by_itself

    async def authorise(self, request: Request) -> Principal:
        """The one who is signed in, if they hold the permission.

        Raises:
            SignInNeeded: nobody is signed in.
            Forbidden: they lack the permission, or another site sent the form.
        """
        principal = await self._principal(request)
        if request.method not in SAFE_METHODS:
            # Once it is known whose session was to be abused: the audit log names them.
            refuse_other_sites(request)
        if principal is None:
            raise SignInNeeded("Sign in to see this page")
        if not principal.may(self.permission):
            raise Forbidden(
                f"This needs the permission {self.permission}", scope=self.permission.value
            )
        return principal

    async def _principal(self, request: Request) -> Principal | None:
        """Who is signed in; looked up once, however many ask."""
        known: Principal | None = request.scope.get("principal")
        secret = request.cookies.get(COOKIE)
        if known is None and secret is not None:
            by_itself = self._by_itself or REFRESH_HEADER in request.headers
            known = await sessions_of(request).find(secret, note_use=not by_itself)
            request.scope["principal"] = known
        return known


@cache
def signed_in(permission: Permission) -> RequireSignedIn:
    """A dependency that admits who is signed in and holds the permission."""
    return RequireSignedIn(permission)


Watcher = Annotated[Principal, Security(RequireSignedIn(Permission.ADMIN_READ, by_itself=True))]
"""A viewer's page that waits for events: `EventSource` sends no header of ours."""
Viewer = Annotated[Principal, Security(signed_in(Permission.ADMIN_READ))]
Operator = Annotated[Principal, Security(signed_in(Permission.ADMIN_OPERATE))]
Deleter = Annotated[Principal, Security(signed_in(Permission.ADMIN_DELETE))]
KeyManager = Annotated[Principal, Security(signed_in(Permission.KEYS_MANAGE))]


def sessions_of(request: Request) -> SessionStore:
    """The sessions of the application that serves `request`."""
    store: SessionStore = request.app.state.sessions
    return store


def refuse_other_sites(request: Request) -> None:
    """Let only our own pages send forms.

    A browser says where a form comes from: `Sec-Fetch-Site`, or in an old one `Origin`. What says
    neither is refused, too. The cookie is `SameSite=Strict` besides.

    Raises:
        Forbidden: the form comes from elsewhere.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site not in {None, "same-origin"} or (site is None and origin is None):
        reason = "Sec-Fetch-Site" if site is not None else "neither Origin nor Sec-Fetch-Site"
    elif origin is not None and not _is_ours(request, origin):
        reason = "Origin"
    else:
        return
    AUTH_FAILURES.labels("other_site").inc()
    raise Forbidden(
        f"The form was not sent from a page of this dashboard ({reason}). Open the page again and "
        "send it from there; behind a proxy that replaces Host, set DASHBOARD_ORIGINS"
    )


def _is_ours(request: Request, origin: str) -> bool:
    if origin in settings_of(request).dashboard_origins:
        return True
    host = request.headers.get("host")
    return host is not None and urlsplit(origin).netloc.lower() == host.lower()
