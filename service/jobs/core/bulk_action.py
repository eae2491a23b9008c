"""What is done to many jobs at once: a verb, and its values."""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Self

from service.errors import InvalidInput
from service.jobs.core.change import JobChange
from service.jobs.core.encoding import dump_json
from service.jobs.core.job import DEAD, JobStatus

MAX_MERGE_BYTES: Final = 65_536


class Verb(StrEnum):
    """What is done."""

    RETRY = "retry"
    """DEAD_LETTER and FAILED jobs become PENDING, due now; with values, they are edited as well."""
    CANCEL = "cancel"
    """PENDING jobs become CANCELLED."""
    DELETE = "delete"
    """Any but RUNNING jobs are removed, with their histories."""
    RESCHEDULE = "reschedule"
    """PENDING jobs become due at another time."""
    MOVE = "move"
    """PENDING jobs wait in another queue."""
    SET_PRIORITY = "set_priority"
    """PENDING jobs wait with another priority."""


_PENDING: Final = frozenset({JobStatus.PENDING})
ACTS_ON: Final = {
    Verb.RETRY: DEAD,
    Verb.DELETE: frozenset(JobStatus) - {JobStatus.RUNNING},
    Verb.CANCEL: _PENDING,
    Verb.RESCHEDULE: _PENDING,
    Verb.MOVE: _PENDING,
    Verb.SET_PRIORITY: _PENDING,
}
"""The statuses of the jobs that a verb is for."""

_NEEDS: Final = {
    Verb.RESCHEDULE: "run_at",
    Verb.MOVE: "queue",
    Verb.SET_PRIORITY: "priority",
}
_MAY_HAVE: Final = {Verb.RETRY: {"run_at", "max_retries", "payload_merge"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkAction:
    """A verb and its values.

    Args:
        verb: what is done.
        run_at: when the jobs are due.
        queue: the queue that they are moved to.
        priority: their new priority.
        max_retries: retries after the next attempt.
        payload_merge: a JSON merge patch (RFC 7396) for the payload of each.
    """

    verb: Verb
    run_at: datetime | None = None
    queue: str | None = None
    priority: int | None = None
    max_retries: int | None = None
    payload_merge: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse values that do not belong to the verb, or break a rule.

        Raises:
            InvalidInput: the value is named.
        """
        needed = _NEEDS.get(self.verb)
        allowed = _MAY_HAVE.get(self.verb, {needed} if needed else set())
        given = {one.name for one in fields(self) if getattr(self, one.name) is not None} - {"verb"}
        if needed is not None and needed not in given:
            raise InvalidInput(f"{self.verb} needs {needed}: give it", field=needed)
        if strange := sorted(given - allowed):
            raise InvalidInput(
                f"{strange[0]} does not belong to {self.verb}: leave it out", field=strange[0]
            )
        self.change().encoded()
        if self.payload_merge is not None:
            dump_json(self.payload_merge, what="payload_merge", max_bytes=MAX_MERGE_BYTES)

    def change(self) -> JobChange:
        """The values that each job gets alike."""
        return JobChange(
            run_at=self.run_at,
            queue=self.queue,
            priority=self.priority,
            max_retries=self.max_retries,
        )

    def values(self) -> dict[str, Any]:
        """The values that are given, as JSON."""
        given = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "verb"}
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in given.items()
            if value is not None
        }

    @classmethod
    def of(cls, verb: str, values: dict[str, Any]) -> Self:
        """The action again, of its verb and `values`."""
        given = dict(values)
        if "run_at" in given:
            given["run_at"] = datetime.fromisoformat(given["run_at"])
        return cls(verb=Verb(verb), **given)


def merged(value: Any, patch: Any) -> Any:
    """`value` with a JSON merge patch applied (RFC 7396): null removes a member."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), change)
    return result
