"""Variants of the drain: slower handlers, larger payloads, more queues, failing first attempts.

Each differs from the plain drain in one thing, and is measured in turn with it. A handler that
takes its time has an ideal: slots / its time, were every slot filled again at once.
"""

from collections.abc import Awaitable, Callable
from random import Random

from benchmarks.drain import PLAIN, Load, drain, drain_bare
from benchmarks.scenario import Report, Scale, interleaved

OURS_LARGE = "drain: 4 KB payload"
PLAIN_NAME = "drain: 0 ms, 200 B, 1 queue, none fails"
BARE = "drain: 4 KB payload, bare asyncpg"
LARGE = Load(payload={"user_id": 123456, "message": Random(1).randbytes(2025).hex()})
"""About 4 KB of JSON, of a kind that PostgreSQL cannot compress: it is kept beside the row."""

SLEEPING = {
    # More slots than the plain drain could fill: what is measured is what they cost.
    "drain: 1 ms handler, 400 slots": Load(handler_seconds=0.001, slots=400),
    "drain: 50 ms handler, 4,000 slots": Load(handler_seconds=0.05, slots=4000),
    # The default, and the opposite: only slots that stand empty cost something.
    "drain: 50 ms handler, 100 slots": Load(handler_seconds=0.05, slots=100),
}
SLOT_BOUND = 10_000
"""Jobs a second: a load whose ideal is below is given a tenth of the jobs, and held against it."""

OTHERS = {
    OURS_LARGE: LARGE,
    "drain: 10 queues": Load(queues=tuple(f"queue{number}" for number in range(10))),
    "drain: 100 queues": Load(queues=tuple(f"queue{number}" for number in range(100))),
    "drain: 1 % fail once": Load(fail_once_percent=1),
    "drain: 20 % fail once": Load(fail_once_percent=20),
}


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """All in turn; ratios to the plain drain, or to what the slots allow."""

    def timed(name: str, load: Load) -> Callable[[], Awaitable[None]]:
        jobs = scale.jobs // 10 if _ideal(load) < SLOT_BOUND else scale.jobs

        async def run() -> None:
            report.figure(name, "jobs/s").runs.append(jobs / await drain(dsn, jobs, load))

        return run

    async def bare() -> None:
        seconds = await drain_bare(dsn, scale.jobs, LARGE)
        report.figure(BARE, "jobs/s").runs.append(scale.jobs / seconds)

    loads = {PLAIN_NAME: PLAIN} | SLEEPING | OTHERS
    await interleaved(scale.runs, *(timed(name, load) for name, load in loads.items()), bare)
    for name, load in SLEEPING.items():
        report.figure(f"{name}, ideal", "jobs/s").runs = [_ideal(load)] * scale.runs
    report.ratio("drain: 4 KB payload: ours / floor", OURS_LARGE, BARE)
    for name, load in (SLEEPING | OTHERS).items():
        if _ideal(load) < SLOT_BOUND:
            report.ratio(f"{name}: ours / ideal", name, f"{name}, ideal")
        else:
            report.ratio(f"{name} / plain", name, PLAIN_NAME)


def _ideal(load: Load) -> float:
    """Jobs a second that the slots allow."""
    return load.slots / load.handler_seconds if load.handler_seconds else float("inf")
