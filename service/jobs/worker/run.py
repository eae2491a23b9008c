"""One attempt under way."""

import asyncio
from dataclasses import dataclass
from typing import Final

from service.jobs.core.attempt import Attempt, Stop
from service.jobs.handlers.context import JobContext
from service.jobs.handlers.registry import HandlerSpec

NEVER: Final = float("inf")


@dataclass(slots=True, eq=False)
class Run(Attempt):
    """One attempt under way, from its claim until its outcome is recorded."""

    handler: HandlerSpec
    lease_deadline: float
    """When the lease ends by `lease_clock`, as far as this process knows."""
    timeout_at: float = NEVER
    """Monotonic time at which the handler has used up its timeout."""
    task: asyncio.Task[None] | None = None
    context: JobContext | None = None
    stop: Stop | None = None
    """Why the handler was told to stop, if it was."""
    ended: bool = False
    """Whether the outcome has been handed over."""
    stuck: bool = False
    """Whether it was, since the handler did not stop."""
    abandon_timer: asyncio.TimerHandle | None = None
    """Records the outcome of a handler that was told to stop and does not."""

    @property
    def unfinished(self) -> bool:
        """Whether it has no outcome yet, or one in a chunk whose handler goes on."""
        return not self.ended or (self.handler.chunk is not None and self.stop is None)
