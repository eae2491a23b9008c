"""The disk under PostgreSQL is full: nothing is acknowledged that is not stored; then it goes on."""

import asyncio
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from service.jobs import Registry
from service.settings import Settings
from tests import databases
from tests.chaos.cluster import Cluster
from tests.chaos.reports import report
from tests.chaos.serving import Serving, serving
from tests.jobs.waiting import until

PAYLOAD_BYTES: Final = 60_000
CLIENTS: Final = 4
SEGMENT_MB: Final = 16
"""PostgreSQL asks for so much of the disk at once, and gives it back where it does not get it all."""
SMALL: Final = ("max_wal_size = '32MB'", "min_wal_size = '32MB'", "checkpoint_timeout = '30s'")

STORED: Final = """
SELECT id, (payload ->> 'number')::int, status, (result #>> '{}')::int FROM background_jobs"""


@dataclass(frozen=True)
class Form:
    """The disk, how much of it others take, and for how long clients go on when it is full."""

    disk_mb: int
    left_mb: int
    seconds: float


FORMS: Final = [
    pytest.param(Form(200, 6, 1.5), id="short"),
    pytest.param(
        Form(800, 400, 60.0), id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(600)]
    ),
]


@pytest.fixture
def disk(form: Form, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of its own, in memory."""
    # Not in pytest's folder, as the server of all the others is not.
    place = Path(tempfile.mkdtemp(prefix="finmind-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={form.disk_mb}m,mode=755", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        place.rmdir()
        if request.node.get_closest_marker("chaos"):
            raise  # asked for by name: nothing was tried, and that is no success
        pytest.skip("this machine lets us mount no file system of a size of its own")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)
        place.rmdir()


@pytest.mark.parametrize("form", FORMS)
async def test_a_full_disk_is_a_503_and_never_a_false_2xx(
    disk: Path, form: Form, make_settings: Callable[..., Settings]
) -> None:
    handlers = Registry()

    runs: Counter[int] = Counter()

    @handlers.handler("mail", max_retries=100)
    async def mail(payload: Any) -> int:
        runs[payload["number"]] += 1
        return len(payload["text"])

    with Cluster.running(disk / "server") as cluster:
        await databases.execute(
            cluster.dsn, *(f"ALTER SYSTEM SET {one}" for one in SMALL), "SELECT pg_reload_conf()"
        )
        dsn = await cluster.new_database()
        settings = make_settings(poll_max_seconds=0.2)
        async with serving(settings, dsn, handlers=handlers) as under_test:
            ballast = disk / "ballast"
            fill(ballast, form)
            clients = Clients(under_test, random.Random(form.disk_mb))
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(clients.post(until_full_for=form.seconds))
            went_down = not cluster.is_up
            left_mb = shutil.disk_usage(disk).free >> 20
            ballast.unlink()
            began = time.monotonic()

            async def accepted_again() -> bool:
                if not cluster.is_up:  # as whoever runs a server does once there is room
                    await cluster.start()
                return await clients.accepted()

            await until(accepted_again, seconds=20)
            recovered = time.monotonic() - began
            await all_done(dsn)
            assert under_test.worker is not None
            assert under_test.worker.alive
            # What was acknowledged outlives the server, and not only its memory.
            await cluster.stop_immediately()
            await cluster.start()
            stored = await stored_jobs(dsn)
    lost = clients.acknowledged - stored.keys()
    report(
        f"disk-full-{form.disk_mb}mb",
        answers=dict(clients.told),
        acknowledged=len(clients.acknowledged),
        lost=len(lost),
        server_went_down=went_down,
        left_mb=left_mb,
        run_again=sum(runs.values()) - len(runs),
        recovered_seconds=round(recovered, 2),
    )
    assert went_down or left_mb < SEGMENT_MB, "the disk was not full"
    assert lost == set()
    assert {job[1:] for job in stored.values()} == {("SUCCESS", PAYLOAD_BYTES)}
    # What was refused may stand all the same, its answer lost with the server; nothing stands twice,
    # nothing that nobody asked for, and nothing ran that does not stand.
    numbers = Counter(number for number, *_ in stored.values())
    assert set(numbers.values()) == {1}
    assert numbers.keys() <= set(range(1, clients.offered + 1))
    assert runs.keys() == numbers.keys()
    assert clients.told.keys() == {"201", "503"}, clients.told
    assert clients.retry_after <= {"1", "2"}


def fill(ballast: Path, form: Form) -> None:
    """Take all but the last megabytes."""
    with ballast.open("wb") as file:
        free = int(
            subprocess.run(
                ["df", "--output=avail", "-m", str(ballast.parent)],
                check=True, capture_output=True, timeout=10,
            ).stdout.split()[-1]
        )  # fmt: skip
        for _ in range(free - form.left_mb):
            file.write(bytes(1 << 20))


class Clients:
    """Post large jobs, and remember which were acknowledged."""

    def __init__(self, under_test: Serving, dice: random.Random) -> None:
        self.acknowledged: set[int] = set()
        self.offered = 0
        self.told: Counter[str] = Counter()
        self.retry_after: set[str] = set()
        self._under_test = under_test
        self._dice = dice

    async def post(self, *, until_full_for: float) -> None:
        """Go on until the first refusal is so long ago."""
        full_at: float | None = None
        while full_at is None or time.monotonic() < full_at + until_full_for:
            if not await self.accepted() and full_at is None:
                full_at = time.monotonic()

    async def accepted(self) -> bool:
        """Whether one more job is."""
        # Not to be compressed: what is stored takes the room that it takes on the way.
        text = self._dice.randbytes(PAYLOAD_BYTES // 2).hex()
        self.offered += 1
        payload = {"number": self.offered, "text": text}
        answer = await self._under_test.post_job("mail", payload)
        self.told[str(answer.status_code)] += 1
        if answer.status_code == 201:
            self.acknowledged.add(answer.json()["id"])
            return True
        self.retry_after.add(answer.headers.get("retry-after", "missing"))
        return False


async def all_done(dsn: str) -> None:
    sql = await asyncpg.connect(dsn, timeout=10)
    try:

        async def ended() -> bool:
            return not await sql.fetchval("SELECT count(*) FROM jobs_live")

        await until(ended, seconds=40)
    finally:
        await sql.close()


async def stored_jobs(dsn: str) -> dict[int, tuple[int, str, int]]:
    """Of each job the number in its payload, its status and its result."""
    sql = await asyncpg.connect(dsn, timeout=10)
    try:
        rows = await sql.fetch(STORED)
    finally:
        await sql.close()
    return {row[0]: (row[1], row[2], row[3]) for row in rows}
