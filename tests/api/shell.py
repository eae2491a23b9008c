"""A small application with our shell around routes that fail in every way we know."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import Body, FastAPI, Request
from prometheus_client import REGISTRY
from pydantic import BaseModel, Field

from service.api.error_handlers import register_problem_handlers
from service.api.middleware import RequestShell
from service.api.refusals import FIRST_ERRORS
from service.serving.connection import bounded_protocol
from service.settings import Settings

BOUNDS = {"head_seconds": 10.0, "head_bytes": 65_536, "read_seconds": 30.0}


class Thing(BaseModel):
    """What `/things` takes."""

    name: str = Field(max_length=10)
    size: int = Field(ge=0, le=9)


def shell_app(settings: Settings, fail: Callable[[], Awaitable[Any]]) -> FastAPI:
    """The application; `GET /fail` runs `fail`."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)

    @app.get("/fail")
    async def failing() -> Any:
        return await fail()

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/things")
    async def things(thing: Thing) -> Thing:
        return thing

    @app.post("/many")
    async def many(body: Annotated[list[Thing], Body(), FIRST_ERRORS]) -> int:
        return len(body)

    register_problem_handlers(app)
    app.add_middleware(RequestShell, settings=settings)
    return app


@asynccontextmanager
async def shell_client(
    settings: Settings, fail: Callable[[], Awaitable[Any]]
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the small application."""
    transport = httpx.ASGITransport(app=shell_app(settings, fail), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://shell.test") as client:
        yield client


@asynccontextmanager
async def real_server(app: FastAPI, **bounds: float) -> AsyncIterator[str]:
    """The application behind a real HTTP server on loopback, as `serve` has it; its URL."""
    protocol = bounded_protocol(**(BOUNDS | bounds))  # type: ignore[arg-type]
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        try:
            async with asyncio.timeout(10):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, timeout=10)


def sample(name: str, **labels: str) -> float:
    """The value of one sample of the process's metrics, 0 where it does not exist yet."""
    return REGISTRY.get_sample_value(name, labels) or 0.0
