"""A client of FinMind Jobs: enqueue jobs over REST, wait for them, repair them.

It imports nothing of the service. `Client` and `AsyncClient` do the same, with and without asyncio:

    with Client("https://jobs.example.com", token=key) as jobs:
        job = jobs.enqueue("send_invoice", {"invoice": 7}, queue="billing")
        print(jobs.wait(job.id).result)

`finmind_client.transaction` enqueues in a transaction of your own, without the service between.
"""

from finmind_client.admin import Admin
from finmind_client.async_admin import AsyncAdmin
from finmind_client.async_client import AsyncClient
from finmind_client.client import Client
from finmind_client.errors import (
    ApiError,
    Conflict,
    FieldError,
    FinMindError,
    InvalidInput,
    JobNotEnded,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    NotInstalled,
    NotReached,
    QuotaExceeded,
    Unavailable,
)
from finmind_client.job_events import JobEvent
from finmind_client.models import Backoff, Enqueued, Job, JobOptions, JobRef, NewJob, SqlOptions
from finmind_client.retries import Retry
from finmind_client.schedule_models import (
    Backfilled,
    NewSchedule,
    Preview,
    Schedule,
    ScheduleOptions,
    Tick,
)

__all__ = [
    "Admin",
    "ApiError",
    "AsyncAdmin",
    "AsyncClient",
    "Backfilled",
    "Backoff",
    "Client",
    "Conflict",
    "Enqueued",
    "FieldError",
    "FinMindError",
    "InvalidInput",
    "Job",
    "JobEvent",
    "JobNotEnded",
    "JobOptions",
    "JobRef",
    "NewJob",
    "NewSchedule",
    "NotAllowed",
    "NotAuthenticated",
    "NotFound",
    "NotInstalled",
    "NotReached",
    "Preview",
    "QuotaExceeded",
    "Retry",
    "Schedule",
    "ScheduleOptions",
    "SqlOptions",
    "Tick",
    "Unavailable",
]
