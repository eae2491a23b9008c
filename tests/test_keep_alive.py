"""How long a connection is kept for the next request."""

import asyncio
import time
from pathlib import Path

import pytest

from service.settings import Settings
from tests.processes.fleet import Fleet

pytestmark = pytest.mark.whole

KEPT_SECONDS = 7.0
"""Longer than uvicorn's own 5 s."""


async def test_a_connection_is_kept_as_long_as_the_setting_says(
    tmp_path: Path, pg_dsn: str
) -> None:
    fleet = Fleet(tmp_path)
    try:
        (replica,) = await fleet.start(1, pg_dsn, KEEP_ALIVE_SECONDS=KEPT_SECONDS)
        port = int(replica.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        began = time.monotonic()
        async with asyncio.timeout(30):
            said = await reader.read()  # until the service closes it
        kept = time.monotonic() - began
        writer.close()
    finally:
        fleet.stop()
    assert said.startswith(b"HTTP/1.1 200 ")
    assert kept >= KEPT_SECONDS - 0.1


def test_by_default_that_is_longer_than_proxies_keep_theirs(settings: Settings) -> None:
    assert settings.keep_alive_seconds > 60
