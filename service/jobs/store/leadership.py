"""Elect the one process that does the maintenance."""

from typing import Final

import asyncpg

from service.db.schema import lock_name
from service.jobs.store.statement import Statement

LEAD: Final = Statement("SELECT pg_try_advisory_xact_lock(hashtext(:lock))")


LEADERSHIP: Final = "finmind-jobs.maintenance"
"""Held by an open transaction that has neither an XID nor a snapshot: it holds back no vacuum, ends
with its connection, and works behind PgBouncer in transaction mode."""


_KEEPALIVE: Final = "SELECT 1"
"""Sent without parameters, hence by the simple protocol: the extended one would leave a portal open
until the next statement, and its snapshot would hold back vacuum all that time."""


async def take(
    connection: "asyncpg.Connection[asyncpg.Record]", *, schema: str, idle_seconds: float
) -> bool:
    """Take the lock in a transaction that stays open; False where another process has it.

    Args:
        connection: leads until its transaction ends.
        schema: where the tables are; each schema has a leader of its own.
        idle_seconds: the server ends the transaction after so long without a `keep_alive`.
    """
    if not connection.is_in_transaction():
        await connection.execute("BEGIN")
    if not await connection.fetchval(*LEAD.bind(lock=lock_name(LEADERSHIP, schema))):
        await connection.execute("ROLLBACK")
        return False
    await connection.execute(
        f"SET LOCAL idle_in_transaction_session_timeout = {int(idle_seconds * 1000)}"
    )
    return True


async def keep_alive(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Show the server that the leader is there."""
    await connection.execute(_KEEPALIVE)
