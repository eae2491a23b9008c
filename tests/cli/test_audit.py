"""What commands leave in the audit log."""

import getpass
import socket

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tests.running import Run


async def test_a_command_that_changes_something_leaves_an_entry_by_its_user(
    run: Run, pg_dsn: str, session: AsyncSession
) -> None:
    made = run("api-keys", "create", "billing", "--scope", "jobs:write", DATABASE_URL=pg_dsn)
    prefix = made.stdout[len("fmj_") :].partition(".")[0]
    for _ in range(2):  # the second revokes nothing
        run("api-keys", "revoke", prefix, DATABASE_URL=pg_dsn)
        run("enqueue", "mail", "--unique-key", "k", DATABASE_URL=pg_dsn)
    run("api-keys", "list", DATABASE_URL=pg_dsn)
    entries = await session.execute(
        text("SELECT actor, address, action FROM finmind_jobs.audit_log ORDER BY id")
    )
    user = f"cli:{getpass.getuser()}"
    assert [tuple(entry) for entry in entries] == [
        (user, socket.gethostname(), "api_key.create"),
        (user, socket.gethostname(), "api_key.revoke"),
        (user, socket.gethostname(), "job.enqueue"),
    ]
