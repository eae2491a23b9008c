"""Signing in with a token or an API key, signing out, and the theme."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Query, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from service.addresses import is_loopback
from service.api.actor import acting
from service.api.refused_attempts import note_refused_attempt
from service.auth.api_keys import looks_like_key
from service.auth.authenticator import Authenticator
from service.auth.dependencies import public
from service.auth.principal import ROLE_PERMISSIONS, Permission, Principal, Role
from service.auth.sessions import NewSession
from service.auth.sign_in_link import SignInLink
from service.auth.tokens import expiry_of
from service.dashboard.access import COOKIE, Viewer, refuse_other_sites, sessions_of
from service.dashboard.rendering import THEME_COOKIE, flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Forbidden, Unauthenticated

DEVELOPER: Final = Principal("developer", Role.ADMIN, ROLE_PERMISSIONS[Role.ADMIN], "token")
"""Who signs in by the link that `make run` prints."""
MAX_NEXT: Final = 2000

router = page_router()


@dataclass(frozen=True, slots=True)
class SignIn:
    """What `sign_in.html` shows."""

    next: str
    refused: str | None
    insecure: bool
    """Whether the browser will not keep the cookie: plain HTTP, from another machine."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What `signed_in.html` shows: where it leads."""

    next: str


@router.get("/sign-in", dependencies=[Depends(public)])
async def show_sign_in(
    request: Request,
    next_path: Annotated[str, Query(alias="next", max_length=MAX_NEXT)] = "",
    link: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """The form; with the link of `make run`, a session at once."""
    if not link:
        return _page(request, next_path)
    known: SignInLink | None = request.app.state.sign_in_link
    if known is None or not known.use(link):
        return _page(request, next_path, "This link was used before, or belongs to another start")
    return await _begin(request, DEVELOPER, next_path="", expires_at=None)


@router.post("/sign-in", dependencies=[Depends(public)])
async def sign_in(request: Request, sent: Annotated[FormData, Depends(form)]) -> Response:
    """Check the credential and begin a session."""
    refuse_other_sites(request)
    credential, next_path = str(sent.get("credential", "")).strip(), str(sent.get("next", ""))
    try:
        principal = await _verified(request, credential)
    except (Unauthenticated, Forbidden) as error:
        return _page(request, next_path, error.detail, status=error.status)
    expires_at = principal.expires_at
    if not looks_like_key(credential):
        expires_at = expiry_of(credential)
    return await _begin(request, principal, next_path=next_path, expires_at=expires_at)


@router.post("/sign-out")
async def sign_out(
    request: Request, viewer: Viewer, sent: Annotated[FormData, Depends(form)]
) -> Response:
    """End this session, or with `everywhere` all of this person or key."""
    sessions, actor = sessions_of(request), acting(request, viewer)
    if sent.get("everywhere"):
        await sessions.end_all(viewer.subject, actor=actor)
    else:
        await sessions.end(request.cookies[COOKIE], actor=actor)
    response = see(request, "/dashboard/sign-in")
    response.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return flash(response, "You are signed out")


@router.post("/theme", dependencies=[Depends(public)])
async def set_theme(request: Request, sent: Annotated[FormData, Depends(form)]) -> Response:
    """Remember light, dark or the system's, and show the page again."""
    refuse_other_sites(request)
    response = see(request, _local(str(sent.get("next", ""))))
    theme = str(sent.get("theme", ""))
    if theme in {"light", "dark"}:
        response.set_cookie(
            THEME_COOKIE, theme, max_age=31_536_000, path="/", httponly=True, samesite="strict"
        )
    else:
        response.delete_cookie(THEME_COOKIE, path="/")
    return response


async def _verified(request: Request, credential: str) -> Principal:
    authenticator: Authenticator = request.app.state.authenticator
    source = None if request.client is None else request.client.host
    if not credential:
        raise Unauthenticated("Paste a token or an API key")
    principal = await authenticator.authenticate([f"Bearer {credential}"], source=source)
    if not principal.may(Permission.ADMIN_READ):
        refused = Forbidden(
            "This credential is valid, but may not see the dashboard: it lacks the permission "
            f"{Permission.ADMIN_READ} (roles viewer, operator and admin have it)",
            scope=Permission.ADMIN_READ.value,
        )
        await note_refused_attempt(request, principal, refused)
        raise refused
    return principal


async def _begin(
    request: Request, principal: Principal, *, next_path: str, expires_at: datetime | None
) -> Response:
    actor = acting(request, principal)
    made = await sessions_of(request).create(principal, expires_at=expires_at, actor=actor)
    # A page that leads on, and not a redirect: where a link of another site brought the browser
    # here, it would not send a `SameSite=Strict` cookie along a redirect.
    response = render(request, "signed_in.html", page=SignedIn(_local(next_path)))
    _set_cookie(response, made)
    return response


def _set_cookie(response: Response, made: NewSession) -> None:
    response.set_cookie(
        COOKIE,
        made.secret,
        max_age=made.max_age_seconds,
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
    )


def _page(
    request: Request, next_path: str, refused: str | None = None, *, status: int = 200
) -> Response:
    host = request.url.hostname or ""
    insecure = request.url.scheme == "http" and not is_loopback(host)
    shown = SignIn(_local(next_path), refused, insecure)
    return render(request, "sign_in.html", page=shown, status=status if refused else 200)


def _local(path: str) -> str:
    """The path, if it is one of the dashboard; else its first page: no link leads elsewhere."""
    parts = urlsplit(path)
    ours = path == "/dashboard" or path.startswith(("/dashboard/", "/dashboard?"))
    plain = not (parts.scheme or parts.netloc) and path.isprintable() and "\\" not in path
    return path if ours and plain and len(path) <= MAX_NEXT else "/dashboard"
