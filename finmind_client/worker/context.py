"""What a handler gets beside the payload."""

import threading
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from finmind_client.worker.claimed import OVER, Claimed, Stop
from finmind_client.worker.encoding import clean_text, encode_fields

Level = Literal["debug", "info", "warning", "error"]

LEVELS: Final = ("debug", "info", "warning", "error")


class NoteSink(Protocol):
    """Where progress and lines of an attempt go; never waits."""

    def progress(self, fraction: float, message: str) -> None:
        """How far it is."""

    def log(self, line: dict[str, Any]) -> None:
        """One line, without its number."""


class JobContext:
    """One attempt at one job, as its handler sees it. Safe in any thread.

    Attributes:
        job_id: the job.
        job_type: its type.
        queue: where it waited.
        attempt: 1 for the first run.
        is_last_attempt: whether a failure of this attempt ends the job.
        timeout_seconds: how long the attempt may take, from its claim.
        lease_token: grows with every claim of any job: a fencing token for other systems.
    """

    __slots__ = (
        "_reason",
        "_sink",
        "_stopped",
        "attempt",
        "is_last_attempt",
        "job_id",
        "job_type",
        "lease_token",
        "queue",
        "timeout_seconds",
    )

    def __init__(self, claimed: Claimed, sink: NoteSink) -> None:
        self.job_id: Final = claimed.lease.id
        self.job_type: Final = claimed.job_type
        self.queue: Final = claimed.queue
        self.attempt: Final = claimed.attempt
        self.is_last_attempt: Final = claimed.attempt >= claimed.max_attempts
        self.timeout_seconds: Final = claimed.timeout_seconds
        self.lease_token: Final = claimed.lease.lease_token
        self._sink = sink
        self._stopped = threading.Event()
        self._reason: Stop | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the handler is to stop: coroutines are cancelled as well, plain functions must look."""
        return self._stopped.is_set()

    @property
    def stop_reason(self) -> Stop | None:
        """Why: `cancel`, `shutdown`, `timed_out`, `lease_lost` or `cancelled`; None: it is not to stop."""
        return self._reason

    def wait(self, seconds: float) -> bool:
        """Sleep in a plain function, not past the moment when it is to stop; whether it is."""
        return self._stopped.wait(seconds)

    def progress(self, fraction: float, message: str = "") -> None:
        """Tell how far the job is, for operators and waiting clients to see; returns at once.

        Of several within half a second the last is sent.

        Args:
            fraction: 0 to 1; what is beyond is cut.
            message: 1,000 characters are kept.
        """
        told = min(max(float(fraction), 0.0), 1.0)
        if told != told:  # noqa: PLR0124 - not a number
            raise ValueError("fraction is not a number: give 0 to 1")
        self._sink.progress(told, clean_text(str(message), 1_000))

    def log(self, message: str, *, level: Level = "info", **fields: Any) -> None:
        """Log a line about the job, for operators to see: `ctx.log("sent", recipients=3)`; returns at once.

        Lines are sent a moment later, those of the last moment of a process that is killed are lost. An
        attempt keeps `JOB_LOG_LINES` lines and `JOB_LOG_BYTES` bytes. Log no secrets.

        Args:
            message: 4,000 characters are kept.
            level: `debug`, `info`, `warning` or `error`.
            fields: values beside the message; long ones are cut.

        Raises:
            ValueError: there is no such level.
        """
        if level not in LEVELS:
            raise ValueError(f"level {level!r}: expected one of {', '.join(LEVELS)}")
        line = {"message": clean_text(str(message), 4_000), "level": level}
        self._sink.log(
            line | {"fields": encode_fields(fields), "at": datetime.now(UTC).isoformat()}
        )

    def _stop(self, reason: Stop) -> None:
        # That an attempt is over outweighs a wish that it were.
        if self._reason is None or (reason in OVER and self._reason not in OVER):
            self._reason = reason
        self._stopped.set()
