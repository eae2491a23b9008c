"""An entry of the audit log, who is behind it, and which entries a list asks for."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

PYTHON: Final = "python"
"""The actor of a change for which Python code named none."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something: a principal of the API, `cli:<user>`, or the name of a part of the service.

    `request_id` names the request in the logs; `address` is where it came from.
    """

    subject: str
    request_id: str | None = None
    address: str | None = None


class Outcome(StrEnum):
    """What became of an attempt."""

    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What one actor did, or tried to do."""

    id: int
    at: datetime
    actor: str
    action: str
    subject_type: str
    subject_id: str | None
    filter: Any
    before: Any
    after: Any
    reason: str | None
    request_id: str | None
    address: str | None
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilters:
    """Which entries a list asks for; None: any."""

    actor: str | None = None
    action: str | None = None
    subject_type: str | None = None
    subject_id: str | None = None
    outcome: Outcome | None = None
    since: datetime | None = None
    """At this time or later."""
    until: datetime | None = None
    """Before this time."""
