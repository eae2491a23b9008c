"""The whole service in one object, and the HTTP application around it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from fastapi import FastAPI

from service.api import health
from service.api.error_handlers import register_problem_handlers
from service.api.guarded import add_routes
from service.api.middleware import RequestShell
from service.api.openapi import DESCRIPTION, TAGS, use_problem_schemas
from service.api.stats_cache import StatsCache
from service.audit.refused_attempts import RefusedAttempts
from service.auth.authenticator import Authenticator
from service.auth.live_jobs_index import ensure_live_jobs_index
from service.auth.quotas import Quotas
from service.auth.sessions import SessionStore
from service.auth.sign_in_link import SignInLink
from service.dashboard.live import Live
from service.db.engine import Database
from service.db.migrate import prepare
from service.errors import ConfigurationError
from service.jobs.enqueue.group_commit import Intake
from service.jobs.following.followers import Followers
from service.jobs.handlers.loader import load_handlers
from service.jobs.notify.listener import Listener
from service.jobs.read.sealed_types import SealedTypes
from service.jobs.run_once import Passes
from service.jobs.worker.worker import Worker
from service.observability.health import EventLoopMonitor, HealthChecks
from service.observability.logging import get_logger
from service.operations.runner import bind as bind_operations
from service.reminders.handler import bind
from service.reminders.loop import ReminderLoop
from service.remote.gateway import Gateway
from service.schedules.declared import declarations
from service.schedules.declaring import declare
from service.schedules.ticker import Ticker
from service.settings import Settings
from service.targets.handler import bind as bind_targets
from service.targets.tending import Tending
from service.version import running_version

_log = get_logger(__name__)


class Service:
    """Everything that one process runs besides HTTP: started in order, stopped in reverse.

        async with Service(settings, dsn=dsn):
            ...

    `worker` is None if the process runs no jobs.
    """

    def __init__(self, settings: Settings, *, dsn: str, run_worker: bool = True) -> None:
        self.settings = settings
        self.dsn = dsn
        self.database = Database(dsn, settings)
        self.authenticator = Authenticator(settings, self.database)
        self.quotas = Quotas(self.database, settings)
        self.refused_attempts = RefusedAttempts(self.database)
        self.sessions = SessionStore(self.database, settings)
        self.intake = Intake(self.database, settings)
        self.sealed_types = SealedTypes(self.database)
        self.worker: Worker | None = Worker(self.database, settings) if run_worker else None
        slots = self.worker.slots if self.worker is not None else None
        self.passes = Passes(self.database, settings, slots=slots)
        listener = Listener(self.database, settings, worker=run_worker)
        self.live = Live(self.database, settings, listener=listener)
        self.gateway = Gateway(self.database, settings, listener=listener)
        self.followers = Followers(self.database, settings, listener=listener)
        self.reminder_loop = ReminderLoop(self.database, settings) if run_worker else None
        self.ticker = Ticker(self.database, settings) if run_worker else None
        self.monitor = EventLoopMonitor()
        self.health = HealthChecks(
            self.database,
            settings,
            monitor=self.monitor,
            worker=lambda: self.worker,
            stopping=lambda: self._stopping,
        )
        self._stopping = False
        self._started: AsyncExitStack | None = None

    async def start(self) -> None:
        """Bring the schema up to date, load the handlers, then run everything.

        Raises:
            ConfigurationError: a handler module is broken, or the schema is missing or behind
                and `AUTO_MIGRATE` is off.
            Unavailable: another process blocks the migration.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.database.close)
            stack.push_async_callback(self.health.close)
            stack.push_async_callback(self.authenticator.close)
            stack.push_async_callback(self.quotas.close)
            stack.push_async_callback(self.refused_attempts.close)
            stack.push_async_callback(self.sessions.close)
            bind(self.database, self.settings)
            bind_operations(self.database, self.settings)
            sender = bind_targets(self.database, self.settings)
            stack.push_async_callback(sender.close)
            load_handlers(self.settings)
            schedules = declarations.definitions()
            await prepare(self.database, self.settings)
            await ensure_live_jobs_index(self.database, self.settings)
            stack.push_async_callback(self.sealed_types.stop)
            await self.sealed_types.start()
            await self.monitor.start()
            stack.push_async_callback(self.monitor.stop)
            stack.push_async_callback(self.intake.stop)
            if self.worker is not None:
                # Registered first: a worker that fails half-way is stopped as well.
                stack.push_async_callback(self.worker.stop)
                await self.worker.start()
                tending = Tending(self.database, sender.breakers, sender.connections)
                stack.push_async_callback(tending.stop)
                await tending.start()
            self.live.start()
            stack.push_async_callback(self.live.stop)
            self.gateway.start()
            stack.push_async_callback(self.gateway.stop)
            self.followers.start()
            stack.push_async_callback(self.followers.stop)
            if self.reminder_loop is not None:
                stack.push_async_callback(self.reminder_loop.stop)
                await self.reminder_loop.start()
            if self.ticker is not None:
                async with self.database.sessions.begin() as session:
                    await declare(session, schedules, self.settings)
                stack.push_async_callback(self.ticker.stop)
                await self.ticker.start()
            self._started = stack.pop_all()
        _log.info("service_started", worker=self.worker is not None)

    def stop_claiming(self) -> None:
        """Stop claiming and report not ready; running jobs continue. Safe in a signal handler."""
        self._stopping = True
        self.live.close()
        self.gateway.close()
        self.followers.close()
        if self.worker is not None:
            self.worker.stop_claiming()

    async def stop(self) -> None:
        """Drain and stop everything; at most `shutdown_grace_seconds` and a little."""
        self.stop_claiming()
        started, self._started = self._started, None
        if started is not None:
            await started.aclose()
            _log.info("service_stopped")

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()


def create_app(
    settings: Settings, *, dsn: str | None = None, run_worker: bool = True, api: bool = True
) -> FastAPI:
    """The HTTP application; its lifespan starts and stops the service, at `app.state.service`.

    Parameters:
        settings: read once, kept for the life of the application.
        dsn: the database; by default `settings.database_url`.
        run_worker: whether this process claims and runs jobs as well.
        api: whether to serve the API and its documentation; else health and metrics alone.

    Raises:
        ConfigurationError: no database is set, or no token could ever be valid.
    """
    if dsn is None:
        if settings.database_url is None:
            raise ConfigurationError("create_app needs a dsn where DATABASE_URL is not set")
        dsn = settings.database_url.get_secret_value()
    service = Service(settings, dsn=dsn, run_worker=run_worker)
    app = FastAPI(
        title="FinMind Jobs",
        version=running_version(),
        summary="A background-job service on PostgreSQL.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect would lose the credential, and give each path a label of its own.
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.service = service
    app.state.authenticator = service.authenticator
    app.state.quotas = service.quotas
    app.state.health = service.health
    app.state.stats_cache = StatsCache()
    app.state.sessions = service.sessions
    app.state.live = service.live
    app.state.followers = service.followers
    app.state.sign_in_link = None if settings.is_production else SignInLink()
    add_routes(app, health.router)
    if api:
        from service.endpoints import add_endpoints, add_pages  # not in a worker

        add_endpoints(app)
    health.add_metrics(app, settings)
    register_problem_handlers(app)
    use_problem_schemas(app, root_path=settings.root_path)
    if api:
        add_pages(app, settings)
    # Added last, so it is outermost: what it refuses reaches nothing else.
    app.add_middleware(RequestShell, settings=settings)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    async with service:
        yield
