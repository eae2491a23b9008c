"""The engine: everything that an application needs to register, enqueue and run jobs."""

from service.jobs.actions import (
    cancel_job,
    delete_job,
    reschedule_job,
    retry_dead_letter_job,
    send_event,
)
from service.jobs.batches import cancel_batch, close_batch, create_batch
from service.jobs.core.backoff import Backoff
from service.jobs.core.job import BackgroundJob, JobId, JobStatus
from service.jobs.core.new_job import EnqueuedJob, NewJob
from service.jobs.core.outcomes import PermanentError, RetryAfter, Snooze
from service.jobs.core.queue_limits import QueueLimits, Rate
from service.jobs.core.steps import AttemptStopped, EventTimeout, StepError
from service.jobs.enqueue.chain import enqueue_chain
from service.jobs.enqueue.enqueue import enqueue, enqueue_batch, enqueue_many
from service.jobs.enqueue.group_commit import Intake
from service.jobs.handlers.chunk_job import ChunkJob
from service.jobs.handlers.context import JobContext
from service.jobs.handlers.registry import Registry, register_handler, registry
from service.jobs.queues import configure_queue, pause_queue, resume_queue
from service.jobs.read.get import get_job
from service.jobs.read.statistics import JobStats, get_job_stats
from service.jobs.run_once import ProcessSummary, process_due_jobs
from service.jobs.worker.worker import Worker

__all__ = [
    "AttemptStopped",
    "BackgroundJob",
    "Backoff",
    "ChunkJob",
    "EnqueuedJob",
    "EventTimeout",
    "Intake",
    "JobContext",
    "JobId",
    "JobStats",
    "JobStatus",
    "NewJob",
    "PermanentError",
    "ProcessSummary",
    "QueueLimits",
    "Rate",
    "Registry",
    "RetryAfter",
    "Snooze",
    "StepError",
    "Worker",
    "cancel_batch",
    "cancel_job",
    "close_batch",
    "configure_queue",
    "create_batch",
    "delete_job",
    "enqueue",
    "enqueue_batch",
    "enqueue_chain",
    "enqueue_many",
    "get_job",
    "get_job_stats",
    "pause_queue",
    "process_due_jobs",
    "register_handler",
    "registry",
    "reschedule_job",
    "resume_queue",
    "retry_dead_letter_job",
    "send_event",
]
