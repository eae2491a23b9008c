"""Schedules over processes: one job a tick, whoever dies."""

import pytest

from service.db.engine import Database
from service.schedules import managing
from service.schedules.model import CatchUp, Definition, Overlap
from service.schedules.timing import Timing
from tests.processes.fleet import Fleet, until

SCHEDULES = 20


@pytest.mark.timeout(150)
async def test_three_processes_and_a_kill_give_each_tick_one_job(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    definition = Definition(
        timing=Timing(every_seconds=1.0),
        job_type="test.scheduled",
        payload={},
        tick_member="schedule",
        queue="default",
        overlap=Overlap.ALLOW,
        catch_up=CatchUp.ALL,  # a busy machine may stand still
    )
    _, victim, _ = await fleet.start(3, pg_dsn)
    async with database.sessions.begin() as session:
        for number in range(SCHEDULES):
            await managing.create(session, f"s{number}", definition, max_schedules=SCHEDULES)
    connection = await database.connect()

    async def fired(ticks: int) -> bool:
        found = await connection.fetchval("SELECT count(DISTINCT planned_at) FROM schedule_ticks")
        return bool(found >= ticks)

    await until(lambda: fired(2), 60, what="two ticks")
    victim.kill()
    await until(lambda: fired(5), 60, what="five ticks")
    fleet.stop()
    twice = await connection.fetchval(
        "SELECT count(*) FROM (SELECT FROM background_jobs GROUP BY payload -> 'schedule' ->> 'name',"
        " payload -> 'schedule' ->> 'planned_at' HAVING count(*) > 1) t"
    )
    assert twice == 0
    of_each = await connection.fetch(
        "SELECT count(*) AS ticks, sum(t.ticks) FILTER (WHERE outcome = 'fired') AS fired,"
        " extract(epoch FROM max(planned_at) - min(planned_at))::int AS seconds"
        " FROM schedule_ticks t GROUP BY schedule_id"
    )
    assert len(of_each) == SCHEDULES
    assert all(row["ticks"] == row["fired"] == row["seconds"] + 1 for row in of_each), of_each
    jobs = await connection.fetchval("SELECT count(*) FROM background_jobs")
    assert jobs == sum(row["fired"] for row in of_each)
    await connection.close()
