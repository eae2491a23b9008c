"""LISTEN on a connection of its own. `publisher.py` sends NOTIFY, `subscriber.py` wakes workers."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from service.db.engine import Database

PROBE_SECONDS: Final = 10.0
"""How often the connection is probed (keepalive): a half-open one looks just like an idle one."""


async def listen(database: Database, channel: str, on_notification: Callable[[str], None]) -> None:
    """Call `on_notification` with each notification's text until the connection is lost.

    It is first called with an empty text: notifications may have been missed until then.

    Raises:
        DATABASE_ERRORS: the connection could not be made, or did not answer a probe.
    """

    def notified(_connection: Any, _pid: int, _channel: str, text: Any) -> None:
        on_notification(str(text))

    gone = asyncio.Event()
    connection = await database.connect()
    try:
        connection.add_termination_listener(lambda _: gone.set())
        await connection.add_listener(channel, notified)
        on_notification("")
        while not gone.is_set():
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await gone.wait()
            except TimeoutError:
                await connection.fetchval("SELECT 1")
    finally:
        connection.terminate()
