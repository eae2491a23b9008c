"""Tests of code that enqueues and handles jobs: run what is due, move the clock, assert what was enqueued.

Everything happens in one transaction of the test, which is rolled back at its end. No service runs; the
jobs are run by the engine that a service runs. `service.testing.plugin` has the fixtures for pytest.
"""

from service.testing.jobs import Jobs, open_jobs
from service.testing.ran import JobFailed, Ran
from service.testing.server import migrate
from service.testing.sync_jobs import SyncJobs, open_sync_jobs
from service.testing.target import FakeTarget, Request

__all__ = [
    "FakeTarget",
    "JobFailed",
    "Jobs",
    "Ran",
    "Request",
    "SyncJobs",
    "migrate",
    "open_jobs",
    "open_sync_jobs",
]
