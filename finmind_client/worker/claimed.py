"""One claim of one job, as the service tells of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Self

Stop = Literal["cancel", "shutdown", "lease_lost", "timed_out", "cancelled"]
"""Why a handler is to stop."""

OVER: Final[frozenset[str]] = frozenset({"lease_lost", "timed_out", "cancelled"})
"""The attempt is not this worker's any more: nothing can be reported of it."""


class Lease(NamedTuple):
    """Names one claim."""

    id: int
    lease_token: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job that is this worker's until its lease ends."""

    lease: Lease
    lease_seconds: float
    timeout_seconds: float
    job_type: str
    queue: str
    priority: int
    attempt: int
    max_attempts: int
    payload: Any

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """Read one from an answer."""
        return cls(
            Lease(int(document["id"]), int(document["lease_token"])),
            float(document["lease_seconds"]),
            float(document["timeout_seconds"]),
            str(document["job_type"]),
            str(document["queue"]),
            int(document["priority"]),
            int(document["attempt"]),
            int(document["max_attempts"]),
            document["payload"],
        )

    def document(self) -> dict[str, Any]:
        """The same as JSON, for another process."""
        names = (
            "lease_seconds", "timeout_seconds", "job_type", "queue", "priority", "attempt",
            "max_attempts", "payload",
        )  # fmt: skip
        return self.lease._asdict() | {name: getattr(self, name) for name in names}
