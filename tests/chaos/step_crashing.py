"""A probe that ends its process at a named point of a step: before and after its call, in and after its store.

`CRASH_AT` names the point, `CRASH_STEP` the step.
"""

import asyncio
import os
import random
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.claimed_job import Lease
from service.jobs.core.steps import NewStep
from tests.chaos import probe
from tests.chaos.crashing import EXIT_CODE, POINT_VARIABLE, SEED_VARIABLE, SETTLE_SECONDS

STEP_VARIABLE: Final = "CRASH_STEP"


class StepPoint(StrEnum):
    """Where the process ends."""

    BEFORE_CALL = "before_call"
    AFTER_CALL = "after_call"
    IN_STORE = "in_store"
    AFTER_STORE = "after_store"
    AFTER_PUT_BACK = "after_put_back"
    """Once a job that waits at its step is PENDING again."""


def crash_at(point: StepPoint, name: str) -> None:
    """End the process if this is the point, and the step."""
    if os.environ.get(POINT_VARIABLE) == point and os.environ[STEP_VARIABLE] == name:
        os._exit(EXIT_CODE)


def arm() -> None:
    """Wrap the store of steps, and the statement that puts jobs back."""
    store_steps, requeue = store.steps.store, store.settle.requeue

    async def store_and_crash(
        link: Link, steps: Sequence[NewStep]
    ) -> dict[tuple[Lease, str], bool]:
        writing = asyncio.ensure_future(store_steps(link, steps))
        if os.environ.get(POINT_VARIABLE) == StepPoint.IN_STORE:
            moment = random.Random(os.environ[SEED_VARIABLE]).uniform(0, SETTLE_SECONDS)
            await asyncio.wait({writing}, timeout=moment)
            for step in steps:
                crash_at(StepPoint.IN_STORE, step.name)
        held = await writing
        for step in steps:
            crash_at(StepPoint.AFTER_STORE, step.name)
        return held

    async def requeue_and_crash(link: Link, returned: Sequence[Any], **options: Any) -> set[Lease]:
        lost = await requeue(link, returned, **options)
        for _, outcome in returned:
            crash_at(StepPoint.AFTER_PUT_BACK, outcome.step or "")
        return lost

    store.steps.store = store_and_crash
    store.settle.requeue = requeue_and_crash


def main() -> int:
    """Run a command of the service, watched and armed."""
    arm()
    return probe.main()


if __name__ == "__main__":
    sys.exit(main())
