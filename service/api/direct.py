"""A short way through FastAPI for the one route that takes thousands of requests a second."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from pydantic import ValidationError

from service.api.guarded import GuardedRoute
from service.api.new_job_schemas import JobIn
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal

_KEY: Final = "idempotency-key"
_validate: Final = JobIn.__pydantic_validator__.validate_json


def direct_route(
    serve: Callable[[Request, JobIn, Principal], Awaitable[Response]],
) -> type[GuardedRoute]:
    """A route class that hands plain, valid requests straight to `serve`.

    Declared as any other route, and described in OpenAPI as such. A request with an
    `Idempotency-Key`, another content type or anything that does not validate takes FastAPI's own
    way, which reports what is wrong with it. The credential is checked first on both.
    Measured: FastAPI's resolving of dependencies is a third of what a request costs.
    """

    class DirectRoute(GuardedRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            usual = super().get_route_handler()
            authorise = require(Permission.JOBS_WRITE).authorise

            async def handle(request: Request) -> Response:
                principal = await authorise(request)
                headers = request.headers
                media_type = headers.get("content-type", "").partition(";")[0]
                if media_type == "application/json" and _KEY not in headers:
                    try:
                        job = _validate(await request.body())
                    except ValidationError:
                        return await usual(request)
                    return await serve(request, job, principal)
                return await usual(request)

            return handle

    return DirectRoute
