"""What a client's author writes against the generated package: it must type-check, and do what it says."""

import os
import time

from finmind_api import AuthenticatedClient
from finmind_api.api.jobs import enqueue_job, get_job
from finmind_api.models import BackoffIn, BatchIn, JobIn, JobOut, Problem, ReminderChange

JOB = JobIn(job_type="demo.ok", backoff=BackoffIn(base_seconds=10))


def run_a_job(client: AuthenticatedClient) -> JobOut:
    """Enqueue a job, and read it until it has ended."""
    made = enqueue_job.sync(client=client, body=JOB)
    assert isinstance(made, JobOut), made
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = get_job.sync(made.id, client=client)
        assert isinstance(found, JobOut), found
        if found.status not in {"PENDING", "RUNNING"}:
            return found
        time.sleep(0.1)
    raise AssertionError(f"job {made.id} has not ended")


def be_refused(client: AuthenticatedClient) -> Problem:
    """Break a rule."""
    refused = enqueue_job.sync(client=client, body=JobIn(job_type="demo.ok", priority=11))
    assert isinstance(refused, Problem), refused
    return refused


if __name__ == "__main__":
    assert JOB.to_dict() == {"job_type": "demo.ok", "backoff": {"base_seconds": 10}}
    assert BatchIn(jobs=[JOB]).to_dict()["jobs"] == [JOB.to_dict()]
    assert ReminderChange(message="Pay").to_dict() == {"message": "Pay"}
    api = AuthenticatedClient(os.environ["FINMIND_URL"], token=os.environ["FINMIND_TOKEN"])
    with api as api:
        job = run_a_job(api)
        assert (job.status, job.attempts) == ("SUCCESS", 1), job
        assert be_refused(api).status == 422
