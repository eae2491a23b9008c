"""The routes of pages: asked for in a browser, so what is refused is shown as a page as well."""

import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse

from service.api.error_handlers import problem_of
from service.api.guarded import GuardedRoute
from service.api.middleware import FAILURE_ANSWER, UNEXPECTED
from service.api.problems import problem_response, request_id_of
from service.dashboard.access import SignInNeeded
from service.dashboard.rendering import Problem, render, url
from service.db.errors import DATABASE_ERRORS
from service.errors import FinMindError

MAX_FIELDS = 1000


class PageRoute(GuardedRoute):
    """A route whose errors are pages, those that nobody expected too; who is not signed in is led to the sign-in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, with another face for errors."""
        usual = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await usual(request)
            except SignInNeeded:
                return _to_sign_in(request)
            except (
                FinMindError,
                HTTPException,
                RequestValidationError,
                SQLAlchemyError,
                *DATABASE_ERRORS,
            ) as error:
                answer = await problem_of(request, error)
                page = problem_page(request, json.loads(bytes(answer.body)))
                if "retry-after" in answer.headers:
                    page.headers["retry-after"] = answer.headers["retry-after"]
                return page

        async def handle_or_fail(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception:
                # The edge of the application logs it, and answers with this.
                request.scope[FAILURE_ANSWER] = _failure_page(request)
                raise

        return handle_or_fail


def page_router() -> APIRouter:
    """A router for the routes of one page; they are no part of the API and of its description."""
    return APIRouter(prefix="/dashboard", route_class=PageRoute, include_in_schema=False)


def problem_page(request: Request, problem: dict[str, Any]) -> Response:
    """A problem as a page, with the problem's status."""
    shown = Problem(
        status=problem["status"],
        title=problem["title"],
        detail=problem["detail"],
        request_id=problem["request_id"],
    )
    return render(request, "problem.html", page=shown, status=shown.status)


async def form(request: Request) -> FormData:
    """The form that was sent; bounded like every body. `Depends(form)`."""
    return await request.form(max_files=0, max_fields=MAX_FIELDS)


def _failure_page(request: Request) -> Response:
    problem = problem_response(500, UNEXPECTED, request_id=request_id_of(request))
    return problem_page(request, json.loads(bytes(problem.body)))


def _to_sign_in(request: Request) -> Response:
    path = request.url.path.removeprefix(str(request.scope.get("root_path", "")))
    query = f"?{request.url.query}" if request.url.query else ""
    # What was to be sent is lost: the page it was sent from is shown again.
    target = f"{path}{query}" if request.method == "GET" else ""
    to = url(request, "/dashboard/sign-in")
    return RedirectResponse(
        f"{to}?{urlencode({'next': target})}" if target else to, status_code=303
    )
