"""Requests that last on purpose: they wait, and cost neither a warning nor a connection."""

import asyncio
from typing import Final

from fastapi import Request

from service.jobs.following.follower import Follower
from service.jobs.following.followers import Followers

LASTING: Final = "lasting"
"""Where a request's scope says so: such a request is not called slow."""


def followers_of(request: Request) -> Followers:
    """The clients of this process that follow jobs; `request` is one of them from now on."""
    request.scope[LASTING] = True
    followers: Followers = request.app.state.followers
    return followers


async def over_within(request: Request, follower: Follower, seconds: float) -> bool:
    """Wait for the end of the followed job, up to so long; False where the client has hung up."""
    over = asyncio.create_task(follower.over.wait(), name="api.wait")
    gone = asyncio.create_task(hung_up(request), name="api.hung_up")
    try:
        done, _ = await asyncio.wait(
            {over, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if gone in done:
            gone.result()
        return gone not in done
    finally:
        over.cancel()
        gone.cancel()


async def hung_up(request: Request) -> None:
    """Return once the client has hung up; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
