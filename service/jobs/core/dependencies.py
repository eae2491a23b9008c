"""Jobs that run after other jobs: the words and the bounds."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from service.errors import InvalidInput
from service.jobs.core.job import MAX_ID, JobId, JobStatus

AFTER: Final = "after"
"""What a job that waits for its parents is held for."""

DELETED: Final = "DELETED"
"""The outcome of a parent that was deleted."""

MAX_PARENTS: Final = 10_000
"""Jobs that one job may wait for."""

MAX_LINKS: Final = 100_000
"""Parents that the jobs of one call may name together."""


class OnParentFailure(StrEnum):
    """What becomes of a job when one that it waits for does not succeed."""

    CANCEL = "cancel"
    """It is cancelled, and so are the jobs that wait for it."""
    RUN = "run"
    """It runs all the same, once its other parents have ended."""
    HOLD = "hold"
    """It waits until the parent is retried by hand and succeeds. One that can no longer be retried, since
    it was cancelled or deleted, cancels it."""


class Dependency(NamedTuple):
    """A child that waits for a parent."""

    parent_id: JobId
    child_id: JobId
    policy: OnParentFailure


def dooms(policy: str, parent_status: str) -> bool:
    """Whether a child of this policy has nothing to wait for after its parent has ended so."""
    if policy == OnParentFailure.HOLD:
        return parent_status in {JobStatus.CANCELLED, DELETED}
    return policy == OnParentFailure.CANCEL and parent_status != JobStatus.SUCCESS


def checked_parents(after: object) -> tuple[JobId, ...]:
    """The ids of parents, each once.

    Raises:
        InvalidInput: one is no id of a job, or they are too many.
    """
    if isinstance(after, str | bytes) or not isinstance(after, Sequence):
        raise InvalidInput(
            f"after is {after!r:.120}: expected a list of ids of jobs", field="after"
        )
    if len(after) > MAX_PARENTS:
        raise InvalidInput(
            f"after has {len(after)} ids: at most {MAX_PARENTS} are allowed; have jobs in between "
            "wait for some of them each",
            field="after",
        )
    for one in after:
        if not isinstance(one, int) or isinstance(one, bool) or not 1 <= one <= MAX_ID:
            raise InvalidInput(f"after has {one!r:.120}: expected ids of jobs", field="after")
    return tuple(map(JobId, dict.fromkeys(after)))


def checked_policy(value: object) -> OnParentFailure:
    """What `on_parent_failure` says; `cancel` where None.

    Raises:
        InvalidInput: it is none of the three.
    """
    if value is None:
        return OnParentFailure.CANCEL
    try:
        return OnParentFailure(str(value))
    except ValueError:
        words = ", ".join(OnParentFailure)
        raise InvalidInput(
            f"on_parent_failure is {value!r:.120}: expected one of {words}",
            field="on_parent_failure",
        ) from None
