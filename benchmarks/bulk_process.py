"""What `enqueue_many` takes of memory: `python -m benchmarks.bulk_process DSN JOBS`.

A process of its own: in one that measured other things before, what those left free hides what
this one needs. A first, small call is not counted: connections, statements and caches stand then.
Reads Linux's `/proc`. Prints MiB.
"""

import asyncio
import gc
import sys

from benchmarks.proc import forget_peak, peak_rss_mib, rss_mib
from benchmarks.scenario import PAYLOAD, settings
from service.db.engine import Database
from service.jobs import NewJob, enqueue_many

WARM_UP_JOBS = 2000
"""Two batches: one is encoded while the other is stored."""


async def main(dsn: str, jobs: int) -> None:
    """Enqueue, and print by how much the process grew at its widest."""
    database = Database(dsn, settings())
    await _enqueue(database, WARM_UP_JOBS)
    gc.collect()
    before = rss_mib()
    forget_peak()
    await _enqueue(database, jobs)
    print(peak_rss_mib() - before)
    await database.close()


async def _enqueue(database: Database, jobs: int) -> None:
    async with database.sessions.begin() as session:
        await enqueue_many(session, (NewJob("noop", PAYLOAD) for _ in range(jobs)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
