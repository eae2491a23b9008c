"""Where a drain spends its time: `--profile FILE`.

Sampled from outside by py-spy, which slows the drain by next to nothing, and sees the event loop's
callbacks as they are called. Two cores are best: it needs some of the second.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.drain import PLAIN, drain_filled, fill
from benchmarks.scenario import Scale, fresh_database

FORMATS = {".svg": "flamegraph", ".json": "speedscope"}
"""By the name of the file; any other is one line a stack, with its count of samples."""
RATE = 500


async def profile(dsn: str, scale: Scale, file: Path) -> None:
    """Write the profile of one drain of `scale.jobs` jobs to `file`."""
    async with fresh_database(dsn, PLAIN.settings()) as database:
        await fill(database, scale.jobs)
        async with _sampled(file):
            seconds, _ = await drain_filled(database, scale.jobs)
    print(f"{scale.jobs / seconds:,.0f} jobs/s while sampled; the profile is in {file}")


@asynccontextmanager
async def _sampled(file: Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy",
        *("record", "--pid", str(os.getpid()), "--rate", str(RATE), "--function"),
        *("--format", FORMATS.get(file.suffix, "raw"), "--output", str(file)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        while b"Sampling process" not in (line := await process.stdout.readline()):
            if not line:
                raise RuntimeError("py-spy did not start: it may need the right to trace processes")
    rest = asyncio.create_task(process.stdout.read())
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)  # it writes the file then
        async with asyncio.timeout(60):
            await process.wait()
        await rest
