"""Elect the one process that does the maintenance."""

from typing import Final

LEAD: Final = "SELECT pg_try_advisory_xact_lock(hashtext($1))"


LEADERSHIP: Final = "finmind-jobs.maintenance"
"""Held by an open transaction that has neither an XID nor a snapshot: it holds back no vacuum, ends
with its connection, and works behind PgBouncer in transaction mode."""
