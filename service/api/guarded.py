"""Routes that ask who is calling before they look at what was sent."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute

from service.auth.dependencies import RequirePermission


class GuardedRoute(APIRoute):
    """A route whose credential is checked before its body is read.

    FastAPI reads and parses a body before it checks the credential: strangers could have any JSON
    parsed.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, behind the policy of this route."""
        usual = super().get_route_handler()
        policies = [
            dependency.call
            for dependency in self.dependant.dependencies
            if isinstance(dependency.call, RequirePermission)
        ]

        async def handle(request: Request) -> Response:
            for policy in policies:
                await policy.authorise(request)
            if self.body_field is not None:
                # Outside FastAPI's own reading, which takes each error for a malformed body.
                await request.body()
            return await usual(request)

        return handle


def add_routes(app: FastAPI, router: APIRouter) -> None:
    """Serve the routes of a router as they stand in it.

    `include_router` has the parameters of each analysed once more, with what the application adds to
    all of them, which is nothing here: a tenth of a second of the first request.
    """
    app.router.routes.extend(router.routes)
