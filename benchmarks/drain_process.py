"""One worker process of `processes`: `python -m benchmarks.drain_process DSN`.

It says `ready`, starts at the first line it is told, says how many jobs it ran whenever that
changed, stops at the end of its input, and then says `ended` and how many jobs it ran in all.
"""

import asyncio
import sys
from contextlib import suppress

import uvloop

from benchmarks.drain import PLAIN, Handlers
from service.db.engine import Database
from service.heap import tune_garbage_collection
from service.jobs import Worker
from service.observability.logging import configure_logging

SAY_SECONDS = 0.01


async def main(dsn: str) -> None:
    """Be ready, drain when told to, stop when told to."""
    options = PLAIN.settings().model_copy(update={"log_level": "ERROR"})
    configure_logging(options)
    handlers = Handlers(PLAIN, jobs=sys.maxsize)
    told = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(told), sys.stdin
    )
    database = Database(dsn, options)
    worker = Worker(database, options, handlers=handlers)
    tune_garbage_collection()
    print("ready", flush=True)
    if await told.readline():
        await worker.start()
        saying = asyncio.create_task(_say(handlers))
        await told.read()
        await worker.stop()  # returns when every outcome is recorded
        saying.cancel()
        with suppress(asyncio.CancelledError):
            await saying
    print(f"ended {handlers.succeeded}", flush=True)
    await database.close()


async def _say(handlers: Handlers) -> None:
    said = 0
    while True:
        await asyncio.sleep(SAY_SECONDS)
        if handlers.succeeded != said:
            said = handlers.succeeded
            print(f"ran {said}", flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
