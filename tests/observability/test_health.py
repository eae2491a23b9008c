"""The parts of readiness: the monitor of the event loop and the checks."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text

from service.db.engine import Database
from service.db.migrate import head_revision
from service.observability.health import (
    LAG_INTERVAL_SECONDS,
    LAG_WINDOW_SECONDS,
    EventLoopMonitor,
    HealthChecks,
    Readiness,
)
from service.settings import Settings


class Clock:
    """A monotonic clock that the test holds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class WorkerStub:
    """The two facts that the check reads."""

    alive: bool = True
    last_loop_at: float = field(default_factory=time.monotonic)
    claims_fail_since: float | None = None


@dataclass
class State:
    """What the checks are told."""

    worker: WorkerStub | None = None
    stopping: bool = False


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def monitor() -> EventLoopMonitor:
    return EventLoopMonitor()


@pytest.fixture
async def health(
    database: Database, settings: Settings, monitor: EventLoopMonitor, state: State
) -> AsyncIterator[HealthChecks]:
    checks = checks_of(database, settings, monitor, state)
    yield checks
    await checks.close()


def checks_of(
    database: Database, settings: Settings, monitor: EventLoopMonitor, state: State
) -> HealthChecks:
    return HealthChecks(
        database,
        settings,
        monitor=monitor,
        worker=lambda: state.worker,
        stopping=lambda: state.stopping,
    )


def failed(readiness: Readiness) -> dict[str, str]:
    assert readiness.ready == all(check.ok for check in readiness.checks)
    return {check.name: check.detail for check in readiness.checks if not check.ok}


async def execute(database: Database, statement: str) -> None:
    async with database.sessions.begin() as session:
        await session.execute(text(statement))


def test_a_stall_is_remembered_for_the_window_and_no_longer() -> None:
    clock = Clock()
    monitor = EventLoopMonitor(clock)
    monitor.record(1.5)
    monitor.record(0.1)
    assert monitor.max_lag() == 1.5
    clock.now += LAG_WINDOW_SECONDS + 0.1
    assert monitor.max_lag() == 0.0


async def test_a_stall_is_seen_right_after_it_before_the_monitor_ran_again() -> None:
    clock = Clock()
    monitor = EventLoopMonitor(clock)
    await monitor.start()
    try:
        await asyncio.sleep(0)  # lets the monitor begin to sleep; its clock then jumps
        clock.now += LAG_INTERVAL_SECONDS + 2.0
        assert monitor.max_lag() == pytest.approx(2.0)
    finally:
        await monitor.stop()
    assert monitor.max_lag() == 0.0


@pytest.mark.whole
async def test_a_blocked_event_loop_makes_the_process_unready(
    health: HealthChecks, monitor: EventLoopMonitor
) -> None:
    await monitor.start()
    try:
        await asyncio.sleep(0)  # lets the monitor begin
        time.sleep(LAG_INTERVAL_SECONDS + 1.1)  # noqa: ASYNC251 - this is the stall
        assert list(failed(await health.readiness())) == ["event_loop"]
    finally:
        await monitor.stop()


async def test_all_is_well_on_a_migrated_database(health: HealthChecks) -> None:
    assert failed(await health.readiness()) == {}


async def test_an_older_schema_is_unready_and_a_newer_one_is_not(
    health: HealthChecks, database: Database
) -> None:
    await execute(database, "UPDATE alembic_version SET version_num = '0000'")
    reasons = failed(await health.readiness())
    assert list(reasons) == ["migrations"]
    assert "0000" in reasons["migrations"]
    assert head_revision() in reasons["migrations"]
    await execute(database, "UPDATE alembic_version SET version_num = '9999'")
    assert failed(await health.readiness()) == {}


async def test_a_missing_schema_is_unready(health: HealthChecks, database: Database) -> None:
    await execute(database, "DROP TABLE alembic_version")
    assert "run `migrate`" in failed(await health.readiness())["migrations"]


async def test_a_missing_database_is_reported_without_its_address(
    settings: Settings, monitor: EventLoopMonitor
) -> None:
    database = Database("postgresql://nobody:hunter2@127.0.0.1:1/none", settings)
    health = checks_of(database, settings, monitor, State())
    reasons = failed(await health.readiness())
    await health.close()
    await database.close()
    assert set(reasons) == {"database", "migrations"}
    assert "127.0.0.1" not in str(reasons)
    assert "nobody" not in str(reasons)


@pytest.mark.whole
async def test_a_database_that_does_not_answer_is_given_up_after_a_second(
    settings: Settings, monitor: EventLoopMonitor
) -> None:
    release = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    database = Database(f"postgresql://u@127.0.0.1:{port}/x?sslmode=disable", settings)
    health = checks_of(database, settings, monitor, State())
    began = time.monotonic()
    try:
        reasons = failed(await health.readiness())
    finally:
        release.set()
        server.close()
        await server.wait_closed()
        await health.close()
        await database.close()
    assert "within 1 s" in reasons["database"]
    assert time.monotonic() - began < 5


async def test_a_connection_cut_while_idle_is_opened_again(
    health: HealthChecks, database: Database
) -> None:
    await health.readiness()
    await execute(
        database,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert failed(await health.readiness()) == {}


async def test_a_worker_must_be_alive_and_going_round(health: HealthChecks, state: State) -> None:
    state.worker = WorkerStub()
    assert failed(await health.readiness()) == {}
    state.worker.last_loop_at = time.monotonic() - 60
    assert "has not looked for jobs" in failed(await health.readiness())["worker"]
    state.worker.alive = False
    assert "does not run" in failed(await health.readiness())["worker"]


@pytest.mark.parametrize("pause", [0.2, 1.0, 60.0])
async def test_a_worker_at_its_longest_pause_is_ready_however_long_that_is(
    database: Database,
    make_settings: Callable[..., Settings],
    monitor: EventLoopMonitor,
    state: State,
    pause: float,
) -> None:
    settings = make_settings(poll_max_seconds=pause, database_connect_timeout_seconds=5)
    health = checks_of(database, settings, monitor, state)
    try:
        state.worker = WorkerStub(last_loop_at=time.monotonic() - pause)
        assert failed(await health.readiness()) == {}
        # A statement and a connection may take 15 s, and a pause after a failure 5.
        state.worker.last_loop_at = time.monotonic() - pause - 21
        assert "has not looked for jobs" in failed(await health.readiness())["worker"]
    finally:
        await health.close()


async def test_a_process_that_shuts_down_is_unready(health: HealthChecks, state: State) -> None:
    state.stopping = True
    assert failed(await health.readiness()) == {"running": "shutting down"}


async def test_a_crowd_of_probes_shares_rounds(health: HealthChecks) -> None:
    results = await asyncio.gather(*(health.readiness() for _ in range(50)))
    assert all(result.ready for result in results)
    assert len({id(result) for result in results}) < 5


async def test_a_worker_whose_claims_keep_failing_is_not_ready(
    health: HealthChecks, state: State
) -> None:
    state.worker = WorkerStub(claims_fail_since=time.monotonic() - 1)
    assert failed(await health.readiness()) == {}
    state.worker.claims_fail_since = time.monotonic() - 60
    assert "its claims have failed for 60 s" in failed(await health.readiness())["worker"]
