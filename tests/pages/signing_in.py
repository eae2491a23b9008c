"""A client of the dashboard in this process: it has a cookie, and sends forms as our pages do."""

from typing import Final

import httpx
from fastapi import FastAPI

from service.auth.principal import ROLE_PERMISSIONS, Principal, Role
from service.dashboard.access import COOKIE

FROM_OUR_PAGE: Final = {"sec-fetch-site": "same-origin", "origin": "https://service.test"}


async def cookie_of(app: FastAPI, role: Role, subject: str = "tester") -> dict[str, str]:
    """The header of a session that a token with this role began."""
    principal = Principal(subject, role, ROLE_PERMISSIONS[role], "token")
    made = await app.state.sessions.create(principal)
    return {"cookie": f"{COOKIE}={made.secret}"}


async def browser(app: FastAPI, role: Role) -> httpx.AsyncClient:
    """A client that is signed in with this role; `async with await browser(app, role)`."""
    headers = FROM_OUR_PAGE | await cookie_of(app, role)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, base_url="https://service.test", headers=headers, timeout=20
    )
