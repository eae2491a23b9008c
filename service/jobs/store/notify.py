"""Notify the other processes."""

from typing import Final

import asyncpg

from service.db.connection import Link
from service.jobs.store.statement import Statement

NOTIFY: Final = Statement("SELECT pg_notify(:channel, :payload)")


async def send(
    link: "Link | asyncpg.Connection[asyncpg.Record]", payload: str, *, channel: str
) -> None:
    """Notify whoever listens on `channel`, when this is committed."""
    await link.fetch(*NOTIFY.bind(channel=channel, payload=payload))
