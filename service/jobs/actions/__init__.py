"""What people and clients do to single jobs, in the caller's transaction, with an audit entry each."""

from service.jobs.actions.cancel import cancel_job
from service.jobs.actions.change import change_job, reschedule_job, run_job_now
from service.jobs.actions.clone import clone_job
from service.jobs.actions.delete import delete_job
from service.jobs.actions.retry import retry_dead_letter_job
from service.jobs.actions.send_event import SentEvent, send_event

__all__ = [
    "SentEvent",
    "cancel_job",
    "change_job",
    "clone_job",
    "delete_job",
    "reschedule_job",
    "retry_dead_letter_job",
    "run_job_now",
    "send_event",
]
