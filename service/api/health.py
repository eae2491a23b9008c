"""Liveness, readiness and metrics: what the platform around the service asks."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_fastapi_instrumentator import metrics as http_metrics
from prometheus_fastapi_instrumentator.metrics import Info
from pydantic import BaseModel, Field

from service.api.lasting import LASTING
from service.api.problems import problem_responses
from service.auth.dependencies import public, require
from service.auth.principal import Permission
from service.observability.health import HealthChecks
from service.settings import Settings

router = APIRouter(tags=["Health"])


class Live(BaseModel):
    """The process runs and its event loop answers."""

    status: str = Field("ok", description="Always `ok`.")


class CheckState(BaseModel):
    """One check."""

    name: str
    ok: bool
    detail: str = Field(description="Why, in words.")


class Ready(BaseModel):
    """Whether the process can do its work, check by check."""

    ready: bool
    checks: list[CheckState]


_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "Not ready: the checks say why.",
        "model": Ready,
        "content": {
            "application/json": {
                "example": {
                    "ready": False,
                    "checks": [{"name": "database", "ok": False, "detail": "no answer within 1 s"}],
                }
            }
        },
    }
}


@router.get(
    "/health/live",
    operation_id="getLiveness",
    summary="Is the process alive?",
    response_description="The process runs.",
    description="Answers 200 as long as the process answers at all. Restart it when it does not.",
    dependencies=[Depends(public)],
)
async def live() -> Live:
    """Say that the process runs."""
    return Live(status="ok")


@router.get(
    "/health/ready",
    operation_id="getReadiness",
    summary="Can it do its work?",
    response_description="It can do its work.",
    description="Checks the database, the schema, the worker's loops and the event loop. "
    "Send no traffic while it answers 503.",
    responses=_NOT_READY,
    dependencies=[Depends(public)],
)
async def ready(request: Request, response: Response) -> Ready:
    """Say what holds and what does not."""
    health: HealthChecks = request.app.state.health
    state = await health.readiness()
    response.status_code = 200 if state.ready else 503
    checks = [CheckState(name=c.name, ok=c.ok, detail=c.detail) for c in state.checks]
    return Ready(ready=state.ready, checks=checks)


# Proxies and monitors ask by HEAD too. Routes of their own: a document names each operation once.
for _path, _endpoint in (("/health/live", live), ("/health/ready", ready)):
    router.head(_path, include_in_schema=False, dependencies=[Depends(public)])(_endpoint)


def _unless_lasting(measure: Callable[[Info], None] | None) -> Callable[[Info], None]:
    def measured(info: Info) -> None:
        if measure is not None and LASTING not in info.request.scope:
            measure(info)

    return measured


def add_metrics(app: FastAPI, settings: Settings) -> None:
    """Measure every request of the application, and serve `/metrics`.

    HTTP metrics are the application's own, in a registry of its own; those of jobs belong to the
    process. Paths are labelled by their route's template; what matches none is `none`.
    """
    registry = CollectorRegistry()
    instrumentator = Instrumentator(
        excluded_handlers=[
            "^/metrics$",
            "^/static-offline-docs",
            "^/dashboard/events$",
            "^/jobs/[^/]+/events$",
        ]
    )
    # Two of the library's five: each adds to the cost of every request, and sizes are of no use here.
    instrumentator.add(http_metrics.requests(registry=registry))
    latency = http_metrics.latency(registry=registry, should_include_status=False)
    instrumentator.add(_unless_lasting(latency))
    instrumentator.instrument(app)

    async def metrics() -> Response:
        """Render the metrics of this process."""
        text = generate_latest(registry) + generate_latest(REGISTRY)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    policy = public if settings.metrics_public else require(Permission.METRICS_READ)
    app.add_api_route(
        "/metrics",
        metrics,
        methods=["GET"],
        tags=["Health"],
        operation_id="getMetrics",
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."},
            **({} if settings.metrics_public else problem_responses(401, 403)),
        },
        dependencies=[Depends(policy)],
    )
    app.head("/metrics", include_in_schema=False, dependencies=[Depends(policy)])(metrics)
