"""The service over real HTTP on a loopback port, in this process."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import jwt
from fastapi import FastAPI

from service.app import Service, create_app
from service.auth.principal import ROLE_PERMISSIONS, Principal, Role
from service.dashboard.access import COOKIE
from service.db.engine import Database
from service.serving import bind
from service.serving.server import Server, server_config
from service.settings import Settings
from tests.conftest import TEST_SECRET


@dataclass(frozen=True, slots=True)
class Served:
    """A service that answers at `url`, without a slash at the end."""

    url: str
    app: FastAPI

    @property
    def service(self) -> Service:
        """What runs beside HTTP."""
        service: Service = self.app.state.service
        return service

    @property
    def database(self) -> Database:
        """The database of the service."""
        return self.service.database

    def token(self, role: str = "admin", *, subject: str = "tester") -> str:
        """A bearer token of that role."""
        claims = {"sub": subject, "role": role, "exp": int(time.time()) + 3600}
        return jwt.encode(claims, TEST_SECRET, algorithm="HS256")

    async def cookie(self, role: str = "admin", *, subject: str = "tester") -> tuple[str, str]:
        """Name and value of the cookie of a new session of that role."""
        known = Role(role)
        principal = Principal(subject, known, ROLE_PERMISSIONS[known], "token")
        return COOKIE, (await self.service.sessions.create(principal)).secret

    async def browse(self, role: str | None = "admin") -> httpx.AsyncClient:
        """A client that is signed in, and sends what a browser sends with our own forms."""
        headers = {"sec-fetch-site": "same-origin", "origin": self.url}
        if role is not None:
            headers["cookie"] = "=".join(await self.cookie(role))
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20)


@contextlib.asynccontextmanager
async def serving(settings: Settings, *, worker: bool, port: int = 0) -> AsyncIterator[Served]:
    """Serve as `make run` does, on a free port or this one, until the block ends."""
    app = create_app(settings, run_worker=worker)
    service: Service = app.state.service
    ready = asyncio.Event()
    server = Server(server_config(app, settings), on_ready=ready.set)
    with bind("127.0.0.1", port, setting="PORT") as listener:
        address = "{}:{}".format(*listener.getsockname())
        async with app.router.lifespan_context(app), asyncio.TaskGroup() as group:
            group.create_task(server.serve(sockets=[listener]), name="test.server")
            await ready.wait()
            try:
                yield Served(f"http://{address}", app)
            finally:
                service.stop_claiming()
                server.should_exit = True
