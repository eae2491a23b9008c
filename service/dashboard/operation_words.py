"""An operation in words, as pages show it."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from service.api.job_query import parameters
from service.dashboard.formats import number
from service.jobs.core.bulk_action import ACTS_ON, BulkAction, Verb
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import JobStatus
from service.jobs.core.search import search_for
from service.operations.model import FINISHED, RESUMABLE, Operation, OperationState
from service.operations.selection import names_jobs, read_kept

VERBS: Final = {
    Verb.RETRY: "Retry",
    Verb.CANCEL: "Cancel",
    Verb.RESCHEDULE: "Reschedule",
    Verb.MOVE: "Move to a queue",
    Verb.SET_PRIORITY: "Change priority",
    Verb.DELETE: "Delete",
}
"""What a list offers to do to many jobs, in its order."""

STATE_CLASSES: Final = {
    OperationState.RUNNING: "running",
    OperationState.PAUSED: "paused",
    OperationState.STOPPED: "failed",
    OperationState.FAILED: "failed",
    OperationState.CANCELLED: "cancelled",
    OperationState.DONE: "success",
}
"""How a state is coloured: as the status of a job that it resembles."""

MAX_WORDS: Final = 200
"""Characters of a selection that a row shows."""


def verbs_for(filters: JobFilters) -> list[tuple[Verb, str]]:
    """What can be done to jobs that match."""
    wanted = frozenset(JobStatus if filters.statuses is None else filters.statuses)
    return [(verb, words) for verb, words in VERBS.items() if ACTS_ON[verb] & wanted]


def action_words(action: BulkAction) -> str:
    """What is done, in a few words: `Move to slow`, `Edit and retry`."""
    match action.verb:
        case Verb.MOVE:
            return f"Move to {action.queue}"
        case Verb.SET_PRIORITY:
            return f"Set priority {action.priority}"
        case Verb.RETRY if action.payload_merge is not None or action.max_retries is not None:
            return "Edit and retry"
        case _:
            return VERBS[action.verb]


def selection_words(filters: JobFilters) -> str:
    """Which jobs: a search that finds them, or how many were named."""
    if names_jobs(filters):
        count = len(filters.ids or ())
        return f"{number(count)} named {'job' if count == 1 else 'jobs'}"
    return str(search_for(filters)) or "every job"


@dataclass(frozen=True, slots=True)
class Shown:
    """An operation, and what is said of it."""

    operation: Operation

    @property
    def action(self) -> str:
        """What is done."""
        return action_words(self.operation.action)

    @property
    def filters(self) -> JobFilters:
        """Which jobs."""
        return read_kept(self.operation.filter)

    @property
    def selection(self) -> str:
        """Which jobs, in words."""
        words = selection_words(self.filters)
        return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]}…"

    @property
    def jobs_href(self) -> str:
        """The jobs that match now; what it has changed often matches no longer."""
        return f"/dashboard/jobs?{urlencode(parameters(self.filters)[:100])}"

    @property
    def state_class(self) -> str:
        """The class that colours its state."""
        return STATE_CLASSES[self.operation.state]

    @property
    def seen(self) -> int:
        """Jobs that it has acted on or skipped."""
        return self.operation.changed + self.operation.skipped_total

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1; None: not known."""
        if self.operation.state is OperationState.DONE:
            return 1.0
        if not self.operation.expected_exact:
            return None
        return min(1.0, self.seen / max(1, self.operation.expected))

    @property
    def can_pause(self) -> bool:
        """Whether it runs."""
        return self.operation.state is OperationState.RUNNING

    @property
    def can_resume(self) -> bool:
        """Whether it can go on."""
        return self.operation.state in RESUMABLE

    @property
    def can_cancel(self) -> bool:
        """Whether it can be ended."""
        return self.operation.state not in FINISHED
