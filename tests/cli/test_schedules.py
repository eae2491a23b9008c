"""The command `schedules`."""

from service.db.engine import Database
from service.schedules import managing
from service.schedules.model import Definition
from service.schedules.timing import Timing
from tests.running import Run


async def test_schedules_are_paused_and_listed(run: Run, pg_dsn: str, database: Database) -> None:
    definition = Definition(
        timing=Timing("0 6 * * *", zone="Europe/Berlin"), job_type="t", payload={}, queue="q"
    )
    async with database.sessions.begin() as session:
        for name in ("a", "b"):
            await managing.create(session, name, definition, max_schedules=10)
    paused = run("schedules", "pause", "b", "a", "--reason", "a test", DATABASE_URL=pg_dsn)
    assert paused.stderr == "a is paused\nb is paused\n"
    lines = run("schedules", "list", DATABASE_URL=pg_dsn).stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("a  0 6 * * * Europe/Berlin  job_type=t  next=none  paused by cli:")
    assert lines[0].endswith(": a test")


async def test_a_schedule_is_made_changed_and_backfilled(run: Run, pg_dsn: str) -> None:
    def schedules(*words: str) -> str:
        done = run("schedules", *words, DATABASE_URL=pg_dsn)
        return f"{done.stdout}{done.stderr if done.returncode else ''}"

    made = schedules("create", "a", "t", "--cron", "0 6 * * *", "--payload", '{"n": 1}')
    assert made.startswith("a  0 6 * * * UTC  job_type=t  next=20")
    changed = schedules("change", "a", "--every-seconds", "3600", "--reason", "a test")
    assert changed.startswith("a  every 3600 s  job_type=t")
    past = ("--from", "2026-03-01T00:00Z", "--until", "2026-03-02T00:00Z")
    assert schedules("backfill", "a", *past) == "a  ticks=24  enqueued=24  skipped=0\n"
