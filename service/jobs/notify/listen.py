"""LISTEN on a connection of its own."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from service.db.engine import Database

PROBE_SECONDS: Final = 10.0
"""How often the silent connection is asked for a sign of life: a half-open one looks just idle."""


async def listen(database: Database, channel: str, heard: Callable[[str], None]) -> None:
    """Call `heard` with each notification's text until the connection is cut off.

    `heard` is first called with an empty text: something may have been missed until then.

    Raises:
        DATABASE_ERRORS: the connection could not be made, or did not answer a probe.
    """

    def notified(_connection: Any, _pid: int, _channel: str, text: Any) -> None:
        heard(str(text))

    gone = asyncio.Event()
    connection = await database.connect()
    try:
        connection.add_termination_listener(lambda _: gone.set())
        await connection.add_listener(channel, notified)
        heard("")
        while not gone.is_set():
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await gone.wait()
            except TimeoutError:
                await connection.fetchval("SELECT 1")
    finally:
        connection.terminate()
