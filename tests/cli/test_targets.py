"""The command `targets`."""

from service.db.engine import Database
from service.targets import repository
from tests.running import Run


async def test_targets_are_listed_and_reset(run: Run, pg_dsn: str, database: Database) -> None:
    async with database.sessions.begin() as session:
        await repository.write_uses(session, {"a.example:443": repository.Use(succeeded=2)})
        await repository.open_breaker(
            session, "b.example:443", error="broke off", pause=9, longest=9
        )
    shown = run("targets", "list", DATABASE_URL=pg_dsn).stdout.splitlines()
    assert shown[0] == "a.example:443  closed  held=0  answered=2  failed=0"
    assert shown[1].startswith("b.example:443  open  held=0  answered=0  failed=0  since ")
    assert shown[1].endswith(": broke off")
    reset = run("targets", "reset", "b.example:443", "--reason", "is back", DATABASE_URL=pg_dsn)
    assert (reset.returncode, reset.stdout.split()[:2]) == (0, ["b.example:443", "closed"])
    again = run("targets", "reset", "b.example:443", DATABASE_URL=pg_dsn)
    assert (again.returncode, again.stdout) == (2, "")
    assert "is closed" in again.stderr
