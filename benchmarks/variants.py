"""Variants of the drain: slower handlers, larger payloads, more queues, failing first attempts.

Each differs from the plain drain in one thing, and is measured in turn with it. A handler that
takes its time has an ideal: slots / its time, were every slot filled again at once.
"""

from collections.abc import Awaitable, Callable

from benchmarks.drain import PLAIN, Load, drain, drain_bare
from benchmarks.scenario import Report, Scale, interleaved

PLAIN_NAME = "drain: 0 ms, 200 B, 1 queue, none fails"
BARE = "drain: 4 KB payload, bare asyncpg"
LARGE = Load(payload={"user_id": 123456, "message": "x" * 4050})
"""About 4 KB of JSON."""

SLEEPING = {
    # More slots than the plain drain could fill: what is measured is what they cost.
    "drain: 1 ms handler, 400 slots": Load(handler_seconds=0.001, slots=400),
    "drain: 50 ms handler, 4,000 slots": Load(handler_seconds=0.05, slots=4000),
    # The default, and the opposite: only slots that stand empty cost something.
    "drain: 50 ms handler, 100 slots": Load(handler_seconds=0.05, slots=100),
}
FEW_SLOTS_SHARE = 0.1
"""Of the jobs: what a load is given that its slots hold below a tenth of the plain rate."""

OTHERS = {
    "drain: 4 KB payload": LARGE,
    "drain: 10 queues": Load(queues=tuple(f"queue{number}" for number in range(10))),
    "drain: 100 queues": Load(queues=tuple(f"queue{number}" for number in range(100))),
    "drain: 1 % fail once": Load(fail_once_percent=1),
    "drain: 20 % fail once": Load(fail_once_percent=20),
}


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """All in turn; ratios to the plain drain, or to what the slots allow."""

    def timed(name: str, load: Load) -> Callable[[], Awaitable[None]]:
        jobs = int(scale.jobs * FEW_SLOTS_SHARE) if _ideal(load) < 10_000 else scale.jobs

        async def run() -> None:
            report.figure(name, "jobs/s").runs.append(jobs / await drain(dsn, jobs, load))

        return run

    async def bare() -> None:
        seconds = await drain_bare(dsn, scale.jobs, LARGE)
        report.figure(BARE, "jobs/s").runs.append(scale.jobs / seconds)

    loads = {PLAIN_NAME: PLAIN} | SLEEPING | OTHERS
    await interleaved(scale.runs, *(timed(name, load) for name, load in loads.items()), bare)
    for name, load in SLEEPING.items():
        ideal = f"{name.removeprefix('drain: ')}, ideal"
        report.figure(ideal, "jobs/s").runs = [_ideal(load)] * scale.runs
        report.ratio(f"{name.removeprefix('drain: ')}: ours / ideal", name, ideal)
    report.ratio("4 KB payload: ours / floor", "drain: 4 KB payload", BARE)
    for name in loads:
        if name != PLAIN_NAME and _ideal(loads[name]) >= 10_000:
            report.ratio(f"{name.removeprefix('drain: ')} / plain", name, PLAIN_NAME)


def _ideal(load: Load) -> float:
    """Jobs a second that the slots allow."""
    return load.slots / load.handler_seconds if load.handler_seconds else float("inf")
