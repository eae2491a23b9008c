"""API keys over HTTP: created, listed and revoked by callers with `keys:manage`."""

from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Request, Security
from pydantic import BaseModel, ConfigDict, Field

from service.api.actor import acting
from service.api.field_types import Name, PlannedTime, Priority, ReasonGiven, UtcTime
from service.api.guarded import GuardedRoute
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.auth.api_keys import ApiKey, ApiKeyStore, NewApiKey
from service.auth.dependencies import require
from service.auth.principal import KeyLimits, Permission, Principal
from service.errors import Forbidden

router = APIRouter(prefix="/admin/api-keys", tags=["Admin"], route_class=GuardedRoute)

MANY: Final = Field(min_length=1, max_length=100)
Manager = Annotated[Principal, Security(require(Permission.KEYS_MANAGE))]


class ApiKeyIn(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "name": "billing",
                "scopes": ["jobs:write", "jobs:read"],
                "expires_at": "2030-01-01T00:00:00Z",
            }
        },
    )

    name: str = Field(min_length=1, max_length=100, description="Who or what uses the key.")
    scopes: list[Permission] = Field(
        min_length=1, max_length=len(Permission), description="What the key may do."
    )
    expires_at: PlannedTime | None = Field(
        None,
        description="When it stops working, with a time zone, at the latest in 2200; never without.",
    )
    queues: Annotated[list[Name], MANY] | None = Field(
        None, description="The only queues that it may use; any without."
    )
    job_types: Annotated[list[Name], MANY] | None = Field(
        None, description="The only job types that it may use; any without."
    )
    priorities: Annotated[list[Priority], MANY] | None = Field(
        None, description="The only priorities of jobs that it may enqueue; any without."
    )

    def limits(self) -> KeyLimits | None:
        """What the key is bound to; None: to nothing."""
        return KeyLimits.of(self.queues, self.job_types, self.priorities)


class ApiKeyOut(BaseModel):
    """A key, without its secret."""

    prefix: str = Field(description="Names the key; the part before the dot.")
    name: str
    scopes: list[str]
    queues: list[str] | None = Field(description="The only queues that it may use; null: any.")
    job_types: list[str] | None = Field(description="The only job types; null: any.")
    priorities: list[int] | None = Field(description="The only priorities; null: any.")
    created_by: str
    created_at: UtcTime
    expires_at: UtcTime | None
    revoked_at: UtcTime | None
    last_used_at: UtcTime | None = Field(description="To the minute.")


class NewApiKeyOut(ApiKeyOut):
    """A key just created. `key` is shown only once and is not stored."""

    key: str = Field(description="Send it as `X-API-Key`, or as a bearer token.")


class ApiKeyList(BaseModel):
    """Every key, newest first."""

    api_keys: list[ApiKeyOut]


def key_store(request: Request) -> ApiKeyStore:
    """The keys of the application that serves `request`."""
    store: ApiKeyStore = request.app.state.authenticator.api_keys
    return store


def _out(key: ApiKey) -> ApiKeyOut:
    return ApiKeyOut.model_validate(key, from_attributes=True)


@router.post(
    "",
    status_code=201,
    operation_id="createApiKey",
    summary="Make an API key",
    response_description="The new key.",
    description="The answer holds the key, which is shown this once. Nobody can make a key that may "
    "do more than they may themselves; a key cannot make one that holds longer than itself. A key "
    "with `queues`, `job_types` or `priorities` may enqueue, read and claim such jobs alone, and carries no "
    "scopes but `jobs:write`, `jobs:read` and `jobs:work`.",
    responses=problem_responses(401, 403, 422, 503),
)
async def create_api_key(
    request: Request, body: Annotated[ApiKeyIn, FIRST_ERRORS], principal: Manager
) -> NewApiKeyOut:
    """Make a key."""
    made = await make_key(request, principal, body)
    return NewApiKeyOut(**_out(made.record).model_dump(), key=made.key)


async def make_key(request: Request, principal: Principal, body: ApiKeyIn) -> NewApiKey:
    """Make a key that may do no more, and no longer, than who makes it.

    Raises:
        Forbidden: it would.
        InvalidInput: a value breaks a rule.
    """
    excess = sorted(set(body.scopes) - principal.permissions)
    if excess:
        raise Forbidden(
            f"You cannot give what you do not have: {', '.join(excess)}", scope=" ".join(excess)
        )
    _check_expiry(principal, body.expires_at)
    return await key_store(request).create(
        body.name,
        body.scopes,
        created_by=principal.subject,
        expires_at=body.expires_at,
        limits=body.limits(),
        actor=acting(request, principal),
    )


def _check_expiry(maker: Principal, expires_at: datetime | None) -> None:
    """No key outlives the one that made it; people's tokens are short-lived by themselves."""
    if maker.expires_at is None or (expires_at is not None and expires_at <= maker.expires_at):
        return
    asked = "without expires_at" if expires_at is None else f"until {expires_at.isoformat()}"
    raise Forbidden(
        f"A key {asked} would outlive your own, which expires at {maker.expires_at.isoformat()}: "
        "give that time or an earlier one as expires_at"
    )


@router.get(
    "",
    operation_id="listApiKeys",
    summary="List the API keys",
    response_description="The keys.",
    description="Every key, newest first, revoked and expired ones too; the last 1,000.",
    responses=problem_responses(401, 403, 503),
)
async def list_api_keys(request: Request, _principal: Manager) -> ApiKeyList:
    """List the keys."""
    return ApiKeyList(api_keys=[_out(key) for key in await key_store(request).list()])


@router.delete(
    "/{prefix}",
    status_code=204,
    operation_id="revokeApiKey",
    summary="Revoke an API key",
    response_description="The key works no more.",
    description="It stops working with the next request, and so do the keys that it made. Revoking it "
    "again changes nothing.",
    responses=problem_responses(401, 403, 404, 503),
)
async def revoke_api_key(
    request: Request, prefix: str, principal: Manager, reason: ReasonGiven = None
) -> None:
    """Revoke a key."""
    actor = acting(request, principal)
    await key_store(request).revoke(prefix, by=principal.subject, actor=actor, reason=reason)
