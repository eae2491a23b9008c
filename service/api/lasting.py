"""Requests that last on purpose: they wait, and cost neither a warning nor a connection."""

from typing import Final

from fastapi import Request

LASTING: Final = "lasting"
"""Where a request's scope says so: such a request is not called slow."""


async def hung_up(request: Request) -> None:
    """Return once the client has hung up; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
