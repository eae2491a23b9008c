"""The dashboard as a part of the application."""

from typing import Final

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from service.api.guarded import add_routes
from service.auth.dependencies import public
from service.dashboard import live
from service.dashboard.pages import (
    api_keys,
    audit,
    batches,
    dead_letter_group,
    dead_letters,
    enqueue,
    job,
    job_actions,
    job_edit,
    job_types,
    jobs,
    operation,
    operation_start,
    operations,
    overview,
    queue_limits,
    queues,
    reminders,
    schedule_edit,
    schedules,
    sign_in,
    targets,
    workers,
)
from service.dashboard.rendering import HERE, STATIC_PATH
from service.dashboard.route import page_router

PAGES: Final = (
    sign_in,
    overview,
    jobs,
    job,
    job_actions,
    job_edit,
    dead_letters,
    dead_letter_group,
    operation_start,
    operations,
    operation,
    batches,
    schedules,
    schedule_edit,
    queues,
    queue_limits,
    job_types,
    workers,
    targets,
    audit,
    api_keys,
    reminders,
    enqueue,
)

_last = page_router()


@_last.get("/{path:path}", dependencies=[Depends(public)])
async def nothing_here() -> Response:
    """Whatever no page answers."""
    raise HTTPException(404)


def add_dashboard(app: FastAPI) -> None:
    """Serve every page and what they load."""
    app.mount(STATIC_PATH, StaticFiles(directory=HERE / "static"), name="dashboard-static")
    for page in PAGES:
        add_routes(app, page.router)
    add_routes(app, live.router)
    add_routes(app, _last)
