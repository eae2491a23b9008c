"""A probe that ends its process at a named point between a job's claim and its settlement.

The product contains no code for it: the engine's calls to the database are wrapped in this process
only, and the handler that crashes belongs to the tests. `CRASH_AT` names the point; only jobs with
`"crash": true` in their payload crash there.
"""

import asyncio
import json
import os
import random
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.outcomes import Ending
from tests.chaos import probe

POINT_VARIABLE: Final = "CRASH_AT"
SEED_VARIABLE: Final = "CRASH_SEED"
EXIT_CODE: Final = 70
SETTLE_SECONDS: Final = 0.004
"""A settle takes about so long: a crash in it comes at a random moment of this time."""


class Point(StrEnum):
    """Where the process ends."""

    AFTER_CLAIM = "after_claim"
    BEFORE_HANDLER = "before_handler"
    AFTER_HANDLER = "after_handler"
    IN_SETTLE = "in_settle"
    AFTER_SETTLE = "after_settle"


def crash_at(point: Point, payload: dict[str, Any]) -> None:
    """End the process if this is the point for such a job."""
    if os.environ.get(POINT_VARIABLE) == point and payload.get("crash"):
        os._exit(EXIT_CODE)


def arm() -> None:
    """Wrap claim and settle so that they end the process at their points."""
    claim, finish = store.claim.take, store.settle.finish

    async def claim_and_crash(*args: Any, **options: Any) -> list[ClaimedJob]:
        jobs = await claim(*args, **options)
        for job in jobs:
            crash_at(Point.AFTER_CLAIM, json.loads(job.payload))
        return jobs

    async def finish_and_crash(
        link: Link,
        ended: Sequence[tuple[ClaimedJob, Ending]],
        *,
        max_errors: int,
        told: Callable[[], None] | None = None,
    ) -> set[Lease]:
        writing = asyncio.ensure_future(finish(link, ended, max_errors=max_errors, told=told))
        payloads = [json.loads(job.payload) for job, _ in ended]
        if os.environ.get(POINT_VARIABLE) == Point.IN_SETTLE:
            moment = random.Random(os.environ[SEED_VARIABLE]).uniform(0, SETTLE_SECONDS)
            await asyncio.wait({writing}, timeout=moment)
            for payload in payloads:
                crash_at(Point.IN_SETTLE, payload)
        lost = await writing
        for payload in payloads:
            crash_at(Point.AFTER_SETTLE, payload)
        return lost

    store.claim.take = claim_and_crash
    store.settle.finish = finish_and_crash


def main() -> int:
    """Run a command of the service, watched and armed."""
    arm()
    return probe.main()


if __name__ == "__main__":
    sys.exit(main())
