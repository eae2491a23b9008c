"""Elect the one process that does the maintenance."""

from typing import Final

import asyncpg

from service.db.schema import lock_name
from service.jobs.store.statement import Statement

LEAD: Final = Statement("SELECT pg_try_advisory_xact_lock(hashtext(:lock))")


LEADERSHIP: Final = "finmind-jobs.maintenance"
"""Held by an open transaction that has neither an XID nor a snapshot: it holds back no vacuum, ends
with its connection, and works behind PgBouncer in transaction mode."""


async def try_lead(connection: "asyncpg.Connection[asyncpg.Record]", schema: str) -> bool:
    """Take the lock in the open transaction of `connection`; False where another process has it."""
    leads: bool = await connection.fetchval(*LEAD.bind(lock=lock_name(LEADERSHIP, schema)))
    return leads
