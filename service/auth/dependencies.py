"""What every route declares: the permission it needs, or that it is public.

principal: Annotated[Principal, Security(require(Permission.JOBS_WRITE))]
@router.get("/health/live", dependencies=[Depends(public)])
"""

from functools import cache
from typing import Annotated, Final

from fastapi import Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from service.auth.authenticator import Authenticator
from service.auth.principal import Permission, Principal
from service.auth.quotas import Quotas
from service.errors import Forbidden

API_KEY_HEADER: Final = "X-API-Key"

# They only describe themselves in OpenAPI: the authenticator reads the headers.
bearer_token: Final = HTTPBearer(
    scheme_name="BearerToken",
    bearerFormat="JWT",
    description="A JWT with `sub`, `role` and `exp`, or an API key. "
    "`python -m service token --role admin` prints one.",
    auto_error=False,
)
api_key_header: Final = APIKeyHeader(
    name=API_KEY_HEADER,
    scheme_name="ApiKey",
    description="An API key, `fmj_<prefix>.<secret>`; `POST /admin/api-keys` makes them.",
    auto_error=False,
)


class RequirePermission:
    """The dependency that `require` gives; the policy tests read `.permission`."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(
        self,
        request: Request,
        _bearer: Annotated[object, Security(bearer_token)] = None,
        _key: Annotated[object, Security(api_key_header)] = None,
    ) -> Principal:
        """The caller, if they hold the permission.

        Raises:
            Unauthenticated: no credential, or one that is not valid.
            Forbidden: the credential is valid, but lacks the permission.
        """
        return await self.authorise(request)

    async def authorise(self, request: Request) -> Principal:
        """The same outside FastAPI's dependencies."""
        principal = await _principal(request)
        if not principal.may(self.permission):
            raise Forbidden(
                f"This needs the permission {self.permission}", scope=self.permission.value
            )
        return principal


async def _principal(request: Request) -> Principal:
    """Who sent the request; looked up once, however many ask."""
    known: Principal | None = request.scope.get("principal")
    if known is None:
        known = await authenticated(request)
        request.scope["principal"] = known
        quotas: Quotas = request.app.state.quotas
        await quotas.spend_request(known)
    return known


async def authenticated(request: Request) -> Principal:
    """Who sent the request, looked up anew: a credential may have ended while the request waited.

    Raises:
        Unauthenticated: no credential, or one that is not valid.
    """
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.authenticate(
        request.headers.getlist("authorization"),
        request.headers.getlist(API_KEY_HEADER),
        source=None if request.client is None else request.client.host,
    )


@cache
def require(permission: Permission) -> RequirePermission:
    """A dependency that admits only callers with the permission, and returns the principal."""
    return RequirePermission(permission)


async def public() -> None:
    """Declares that a route needs no credential."""
