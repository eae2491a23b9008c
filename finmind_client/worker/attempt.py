"""One claimed job that runs here, and how long it may."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from finmind_client.worker import clock
from finmind_client.worker.claimed import Claimed, Lease, Stop
from finmind_client.worker.context import JobContext, NoteSink
from finmind_client.worker.handlers import Handler
from finmind_client.worker.outcomes import Outcome

Ended = Callable[[Outcome], None]
"""Takes what became of a handler, from any thread, once."""


class Runner(Protocol):
    """Runs handlers of one kind."""

    def begin(self, attempt: "Attempt", ended: Ended) -> None:
        """Begin, and return at once."""

    def close(self) -> None:
        """Begin no more; what still runs is not waited for."""


class Attempt:
    """A claimed job, its handler, and its deadlines by this machine's clock."""

    __slots__ = (
        "claimed",
        "context",
        "handler",
        "lease_until",
        "on_stop",
        "settled",
        "sink",
        "timeout_at",
        "timer",
    )

    def __init__(
        self, claimed: Claimed, handler: Handler, *, sink: NoteSink, asked_at: float
    ) -> None:
        self.claimed: Final = claimed
        self.handler: Final = handler
        self.sink: Final = sink
        self.context: Final = JobContext(claimed, sink)
        self.lease_until = asked_at + claimed.lease_seconds
        """From when the claim was sent: this view of the lease ends first."""
        self.timeout_at = clock.now() + claimed.timeout_seconds
        """From when its answer was here: the service's own end of it comes first."""
        self.settled = False
        """Whether its end is known: reported, to be reported, or another worker's business."""
        self.on_stop: Callable[[Stop], None] | None = None
        """Set by what runs it."""
        self.timer: asyncio.TimerHandle | None = None

    @property
    def lease(self) -> Lease:
        """Names the claim."""
        return self.claimed.lease

    def stop(self, reason: Stop) -> None:
        """Have the handler stop: `cancelled` is set; coroutines are cancelled, processes told or killed."""
        self.context._stop(reason)  # noqa: SLF001 - not for handlers
        if self.on_stop is not None:
            self.on_stop(reason)
