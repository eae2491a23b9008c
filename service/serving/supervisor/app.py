"""Health and metrics of all worker processes at one address."""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.serving.supervisor.merged_metrics import merged
from service.serving.supervisor.questions import Questions

OWN_METRICS: Final = (
    "finmind_worker_processes",
    "finmind_worker_process_restarts_total",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
)
SUPERVISOR: Final = "supervisor"
"""Label of its own series."""
CREDENTIALS: Final = ("authorization", "x-api-key")
PASSED_HEADERS: Final = ("content-type", "www-authenticate", "retry-after")


def create_app(questions: Questions, *, metrics_public: bool) -> Starlette:
    """The application of the supervisor.

    Its workers check who may read metrics: it has no connection to the database.
    """

    async def live(_: Request) -> Response:
        lifeless = await questions.lifeless()
        if lifeless:
            return JSONResponse({"status": f"no answer of worker {lifeless}"}, 503)
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        state = await questions.readiness()
        return JSONResponse(
            {"ready": state.ready, "checks": state.checks}, 200 if state.ready else 503
        )

    async def metrics(request: Request) -> Response:
        asked = request.headers
        answers = await questions.metrics({n: asked[n] for n in CREDENTIALS if n in asked})
        for answer in answers.values():
            if answer.status_code in {401, 403, 429}:
                passed = {n: answer.headers[n] for n in PASSED_HEADERS if n in answer.headers}
                return Response(answer.content, answer.status_code, passed)
        pages = {str(n): one.text for n, one in answers.items() if one.status_code == 200}
        if not pages and not metrics_public:
            detail = "No worker process answers, and only these know who may read metrics"
            return JSONResponse({"status": 503, "detail": detail}, 503, {"retry-after": "2"})
        own = REGISTRY.restricted_registry(OWN_METRICS)
        pages[SUPERVISOR] = generate_latest(own).decode()
        return Response(merged(pages), media_type=CONTENT_TYPE_LATEST)

    paths = {"/health/live": live, "/health/ready": ready, "/metrics": metrics}
    return Starlette(routes=[Route(path, endpoint) for path, endpoint in paths.items()])
