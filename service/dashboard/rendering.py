"""Templates: found, filled and answered with the headers of every page."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from service.api.session import settings_of
from service.auth.principal import Principal
from service.dashboard.access import REFRESH_HEADER
from service.dashboard.formats import FILTERS, now
from service.dashboard.navigation import ITEMS
from service.settings import Settings

HERE: Final = Path(__file__).parent
STATIC_PATH: Final = "/dashboard/static"
THEME_COOKIE: Final = "finmind_theme"
FLASH_COOKIE: Final = "__Host-finmind_flash"
MAX_FLASH_CHARACTERS: Final = 500

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    # With `no-referrer` browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What `problem.html` shows."""

    status: int
    title: str
    detail: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Installation:
    """Which installation this is, in the header of every page."""

    name: str
    colour: str

    @classmethod
    def of(cls, settings: Settings) -> "Installation":
        """By the settings, or by the environment."""
        colour = settings.dashboard_colour or ("red" if settings.is_production else "blue")
        return cls(settings.dashboard_name or settings.environment.value, colour)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(FILTERS)
    return environment


_TEMPLATES: Final = _environment()


def render(request: Request, template: str, *, page: object, status: int = 200) -> Response:
    """Answer with a template; it sees its read model as `page`.

    Beside that every template has `url(path)` for links, `may(permission)`, `principal` (None where
    nobody is signed in), `navigation`, `installation`, `path`, `here`, `flash`, `theme` and `now`.
    """
    principal: Principal | None = request.scope.get("principal")
    permissions = frozenset() if principal is None else principal.permissions
    message = _flashed(request)
    text = _TEMPLATES.get_template(template).render(
        page=page,
        principal=principal,
        may=permissions.__contains__,
        navigation=[item for item in ITEMS if item.permission in permissions],
        installation=Installation.of(settings_of(request)),
        path=request.url.path.removeprefix(_root(request)),
        here=_here(request),
        url=lambda path: url(request, path),
        flash=message,
        theme=_theme(request),
        now=now(),
    )
    response = HTMLResponse(text, status_code=status, headers=dict(HEADERS))
    if message is not None:
        response.delete_cookie(FLASH_COOKIE, path="/", secure=True, httponly=True)
    return response


def url(request: Request, path: str) -> str:
    """The path as a browser must ask for it: under the path of a proxy, if there is one."""
    return _root(request) + path


def see(request: Request, path: str) -> Response:
    """Lead the browser to another page after a form was carried out."""
    return RedirectResponse(url(request, path), status_code=303, headers=dict(HEADERS))


def flash(response: Response, message: str, *, kind: str = "done") -> Response:
    """Show a message once on the next page; `kind` is `done` or `failed`."""
    text = json.dumps([kind, message[:MAX_FLASH_CHARACTERS]], ensure_ascii=False)
    response.set_cookie(
        FLASH_COOKIE,
        base64.urlsafe_b64encode(text.encode()).decode(),
        max_age=60,
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
    )
    return response


def _flashed(request: Request) -> tuple[str, str] | None:
    value = request.cookies.get(FLASH_COOKIE)
    # A page that asks for itself again would take the message from the page that comes next.
    if value is None or REFRESH_HEADER in request.headers:
        return None
    try:
        kind, message = json.loads(base64.urlsafe_b64decode(value))
    except (ValueError, TypeError):
        return None
    return ("failed" if kind == "failed" else "done"), str(message)


def _here(request: Request) -> str:
    """The page with its query; the first page where this one answers a form."""
    if request.method != "GET":
        return "/dashboard"
    query = f"?{request.url.query}" if request.url.query else ""
    return request.url.path.removeprefix(_root(request)) + query


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", "")).rstrip("/")


def _theme(request: Request) -> str:
    value = request.cookies.get(THEME_COOKIE, "")
    return value if value in {"light", "dark"} else "system"
