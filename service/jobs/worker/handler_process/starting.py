"""What a process is told of an attempt that it is to run."""

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.handlers.importable import Importable
from service.jobs.handlers.payload import opened_payload
from service.jobs.handlers.registry import HandlerSpec
from service.jobs.worker.handler_process.messages import Run


def in_process_run(
    job: ClaimedJob, handler: HandlerSpec, *, is_last_attempt: bool, captures_logging: bool
) -> Run:
    """The message that has a process run one attempt.

    Raises:
        PayloadKeyMissing: as `opened_payload`.
        InvalidPayload: the same.
    """
    model = handler.policy.payload_model
    return Run(
        id=job.id,
        job_type=job.job_type,
        attempt=job.attempt,
        is_last_attempt=is_last_attempt,
        lease_token=job.lease_token,
        function=Importable.of(handler.function),
        model=None if model is None else Importable.of(model),
        payload=opened_payload(job.payload, job.job_type, handler.policy),
        takes_context=handler.takes_context,
        captures_logging=captures_logging,
    )
