"""What every measurement shares: a server, fresh databases, repeated runs, a table of results."""

import asyncio
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.proc import cpu_model
from service.db.embedded import EmbeddedServer
from service.db.engine import Database
from service.db.migrate import upgrade
from service.jobs import store
from service.settings import Environment, Settings

PAYLOAD = {"user_id": 123456, "message": "x" * 160}
"""About 200 bytes of JSON."""

SHOWN = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
)
"""Settings of the server that figures depend on."""


def bare_insert(job_type: str, payloads: list[str]) -> tuple[str, *tuple[object, ...]]:
    """What enqueues jobs as bare SQL: the arguments of asyncpg's `fetch`."""
    statement = store.enqueue.ENQUEUE_UNSEEN
    defaults: dict[str, Sequence[str]] = dict.fromkeys(statement.names, ())
    given = {"job_type": [job_type] * len(payloads), "payload": payloads}
    return statement.bind(**defaults | given)


@dataclass(slots=True)
class Figure:
    """One measured thing over several runs, in the order of the runs."""

    name: str
    unit: str
    runs: list[float] = field(default_factory=list)
    better: str = "higher"

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.runs)


@dataclass(slots=True)
class Series:
    """Rows of numbers that one run made: what a picture is drawn from."""

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[float, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much a call measures."""

    jobs: int
    seconds: float
    runs: int
    history: int
    """Finished jobs that stand behind the measurements of a full history."""

    def __str__(self) -> str:
        return (
            f"{self.jobs:,} jobs, {self.seconds:g} seconds, {self.runs} runs, "
            f"{self.history:,} jobs of history"
        )


@dataclass(slots=True)
class Report:
    """Every figure of one call, and where it was measured."""

    machine: dict[str, str]
    figures: list[Figure] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)

    def figure(self, name: str, unit: str, *, better: str = "higher") -> Figure:
        """The figure of that name, made on first use."""
        for standing in self.figures:
            if standing.name == name:
                return standing
        self.figures.append(Figure(name, unit, better=better))
        return self.figures[-1]

    def ratio(self, name: str, ours: str, floor: str) -> None:
        """A figure of ours over a floor, run by run: both saw the machine in the same mood."""
        runs = zip(self.figure(ours, "").runs, self.figure(floor, "").runs, strict=True)
        self.figure(name, "×").runs = [mine / theirs for mine, theirs in runs]

    def ratio_of_medians(self, name: str, ours: str, floor: str) -> None:
        """The same where the runs could not be interleaved: one figure, with no spread of its own."""
        ratio = self.figure(ours, "").median / self.figure(floor, "").median
        self.figure(f"{name}, of medians", "×").runs = [ratio]

    def table(self) -> str:
        """For people: median and spread of each figure."""
        lines = [f"{key}: {value}" for key, value in self.machine.items()]
        lines += ["", f"{'figure':<52}{'median':>12}{'min':>12}{'max':>12}  unit"]
        for figure in self.figures:
            digits = 2 if figure.median < 100 else 0
            cells = (figure.median, min(figure.runs), max(figure.runs))
            numbers = "".join(f"{cell:>12,.{digits}f}" for cell in cells)
            lines.append(f"{figure.name:<52}{numbers}  {figure.unit}")
        return "\n".join(lines)

    def json(self) -> str:
        """For machines."""
        figures = [asdict(figure) | {"median": figure.median} for figure in self.figures]
        series = [asdict(one) for one in self.series]
        return json.dumps({"machine": self.machine, "figures": figures, "series": series}, indent=2)


@asynccontextmanager
async def postgres() -> AsyncIterator[str]:
    """A server's DSN: `BENCH_DATABASE_URL`, or an embedded one with its data in a new folder."""
    url = os.environ.get("BENCH_DATABASE_URL")
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="finmind-bench-") as folder:
        server = EmbeddedServer.start(Path(folder))
        try:
            yield server.dsn
        finally:
            server.stop()


@asynccontextmanager
async def fresh_database(server_dsn: str, settings: Settings) -> AsyncIterator[Database]:
    """A new, migrated database, dropped afterwards."""
    name = f"bench_{os.getpid()}_{os.urandom(3).hex()}"
    await _administer(server_dsn, f"CREATE DATABASE {name}")
    database = Database(urlunsplit(urlsplit(server_dsn)._replace(path=f"/{name}")), settings)
    try:
        await upgrade(database, settings)
        yield database
    finally:
        await database.close()
        await _administer(server_dsn, f"DROP DATABASE {name} WITH (FORCE)")


def settings(**overrides: object) -> Settings:
    """The defaults of the service, whatever this machine's environment says, but for these."""
    return Settings(_env_file=None, environment=Environment.TEST, **overrides)  # type: ignore[arg-type]


async def describe(server_dsn: str) -> dict[str, str]:
    """The machine, the versions and the settings that the figures depend on."""
    connection = await asyncpg.connect(server_dsn)
    try:
        shown = {name: await connection.fetchval(f"SHOW {name}") for name in SHOWN}
    finally:
        await connection.close()
    commit = await asyncio.to_thread(_commit)
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "CPU": cpu_model(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "PostgreSQL": ", ".join(f"{name} {value}" for name, value in shown.items()),
    }


async def interleaved(runs: int, *measurements: Callable[[], Awaitable[None]]) -> None:
    """Measure in turn, A B A B …, so that a change of the machine's mood hits all alike."""
    for _ in range(runs):
        for measure in measurements:
            await measure()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


async def _administer(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
