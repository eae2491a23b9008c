"""The engine: everything that an application needs to register, enqueue and run jobs."""

from service.jobs.actions import (
    cancel_job,
    delete_job,
    reschedule_job,
    retry_dead_letter_job,
)
from service.jobs.backoff import Backoff
from service.jobs.context import JobContext
from service.jobs.enqueue import EnqueuedJob, enqueue, enqueue_batch, enqueue_many
from service.jobs.intake import Intake
from service.jobs.model import BackgroundJob, JobId, JobStatus
from service.jobs.new_job import NewJob
from service.jobs.outcomes import PermanentError, RetryAfter, Snooze
from service.jobs.process import ProcessSummary, process_due_jobs
from service.jobs.queries import get_job
from service.jobs.registry import Registry, register_handler, registry
from service.jobs.statistics import JobStats, get_job_stats
from service.jobs.worker import Worker

__all__ = [
    "BackgroundJob",
    "Backoff",
    "EnqueuedJob",
    "Intake",
    "JobContext",
    "JobId",
    "JobStats",
    "JobStatus",
    "NewJob",
    "PermanentError",
    "ProcessSummary",
    "Registry",
    "RetryAfter",
    "Snooze",
    "Worker",
    "cancel_job",
    "delete_job",
    "enqueue",
    "enqueue_batch",
    "enqueue_many",
    "get_job",
    "get_job_stats",
    "process_due_jobs",
    "register_handler",
    "registry",
    "reschedule_job",
    "retry_dead_letter_job",
]
