"""How a followed job stands, as its events tell it."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from service.jobs.core.job import LIVE


@dataclass(frozen=True, slots=True)
class JobState:
    """What followers of a job are told, but for what it logs."""

    status: str
    attempts: int
    next_run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    held_for: str | None
    cancel_asked: bool
    last_error: str | None
    progress: str | None
    """JSON text."""
    ended_seconds: float | None = field(compare=False)
    """How long ago it ended, by the database's clock."""

    @classmethod
    def of(cls, row: Any) -> Self:
        """Of a row of `store.following.states`."""
        return cls(*row[1:])

    @property
    def has_ended(self) -> bool:
        """Whether it is neither PENDING nor RUNNING."""
        return self.status not in LIVE

    @property
    def digest(self) -> str:
        """Eight characters that change with it."""
        text = json.dumps([self.to_json(), self.progress])
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """All but progress, with the names that a job has in the API."""
        return {
            "status": self.status,
            "attempts": self.attempts,
            "next_run_at": _time(self.next_run_at),
            "started_at": _time(self.started_at),
            "finished_at": _time(self.finished_at),
            "held_for": self.held_for,
            "cancel_asked": self.cancel_asked,
            "last_error": self.last_error,
        }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
