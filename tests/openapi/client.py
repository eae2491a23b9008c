"""What a client's author writes against the generated package: it must type-check, and run."""

from finmind_api import AuthenticatedClient
from finmind_api.api.jobs import enqueue_job, get_job
from finmind_api.models import BackoffIn, BatchIn, JobIn, JobOut, ReminderChange


def enqueue(client: AuthenticatedClient) -> None:
    """Enqueue a job, and read it."""
    made = enqueue_job.sync(client=client, body=JobIn(job_type="send_invoice"))
    assert isinstance(made, JobOut)
    found = get_job.sync(made.id, client=client)
    assert isinstance(found, JobOut)
    assert found.id == made.id


JOB = JobIn(job_type="send_invoice", backoff=BackoffIn(base_seconds=10))
assert JOB.to_dict() == {"job_type": "send_invoice", "backoff": {"base_seconds": 10}}
assert BatchIn(jobs=[JOB]).to_dict()["jobs"] == [JOB.to_dict()]
assert ReminderChange(message="Pay").to_dict() == {"message": "Pay"}
