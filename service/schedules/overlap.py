"""What becomes of a run while runs before it have not ended. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.jobs.core.job import JobId
from service.schedules.model import Overlap

MAX_LIVE: Final = 1000
"""Limit on the runs of a schedule that have not ended, where each waits for the one before."""

MAX_WAITED_FOR: Final = 10
"""Of so many runs before it a run waits for the end, the newest: should some that wait be cancelled, it
still waits for the others."""


@dataclass(frozen=True, slots=True)
class Start:
    """The run is enqueued; it starts once the jobs in `after` have ended."""

    after: tuple[JobId, ...] = ()
    cancel: tuple[JobId, ...] = ()
    """Jobs that are cancelled for it."""


@dataclass(frozen=True, slots=True)
class Skip:
    """The run does not take place."""

    reason: str


def beside(overlap: Overlap, live: Sequence[JobId]) -> Start | Skip:
    """What becomes of a run beside the `live` ones of its schedule, oldest first."""
    if overlap is Overlap.ALLOW or not live:
        return Start()
    newest = tuple(live[-MAX_WAITED_FOR:])
    match overlap:
        case Overlap.SKIP:
            return Skip(f"job {live[-1]} had not ended, and overlap is skip")
        case Overlap.QUEUE_ONE if len(live) > 1:
            return Skip(f"job {live[-1]} was waiting already, and overlap is queue_one")
        case Overlap.CANCEL_OTHER:
            return Start(after=newest, cancel=tuple(live))
        case _ if len(live) >= MAX_LIVE:
            return Skip(f"{MAX_LIVE} runs had not ended, and more do not wait")
    return Start(after=newest)
