"""Clients of one process that follow jobs."""

import asyncio
from typing import Any

from service.db.engine import Database
from service.jobs.core.job import JobId
from service.jobs.following.follower import Position
from service.jobs.following.followers import MAX_LINES, Followers
from service.jobs.notify.listener import Listener
from service.settings import Settings
from tests.jobs.conftest import Put
from tests.jobs.waiting import until_true

LINES = """
INSERT INTO job_logs (job_id, lease_token, line, attempt, at, level, message)
SELECT $1, 1, n, 1, now(), 'info', 'line ' || n FROM generate_series(1, $2::int) n"""


async def test_clients_that_do_not_read_keep_no_other_from_its_lines(
    database: Database, settings: Settings, sql: Any, put: Put
) -> None:
    loud, quiet = await put("mail"), await put("mail")
    await sql.execute(LINES, loud, 3 * MAX_LINES)
    await sql.execute(LINES, quiet, 1)
    followers = Followers(
        database,
        settings,
        listener=Listener(database, settings, worker=False),
        max_untaken_lines=2 * MAX_LINES,
    )
    followers.start()

    def read(job_id: JobId) -> Any:
        return followers.read(job_id, caller="ann", after=Position(0, 0))

    stalled = [read(loud) for _ in range(2)]
    await until_true(lambda: all(len(one.lines) == MAX_LINES for one in stalled))
    reader = read(quiet)
    await until_true(lambda: [line.message for line in reader.lines] == ["line 1"])
    assert sum(len(one.lines) for one in stalled) == MAX_LINES
    seen: list[str] = []
    while len(seen) < 3 * MAX_LINES:  # one that goes on misses none
        async with asyncio.timeout(20):
            await stalled[0].news.wait()
        stalled[0].news.clear()
        seen += [line.message for line in stalled[0].take_lines()]
    assert seen == [f"line {n}" for n in range(1, 3 * MAX_LINES + 1)]
    await followers.stop()
