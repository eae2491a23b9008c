"""The context of a handler in a process of its own: what it asks for is asked of the worker."""

from typing import Any, NoReturn, Protocol

from service.jobs.core.encoding import load_json
from service.jobs.core.job import LeaseToken
from service.jobs.core.log_line import LogLine
from service.jobs.core.steps import StepError
from service.jobs.handlers.context import JobContext
from service.jobs.handlers.job_log import JobLog
from service.jobs.worker.handler_process.messages import Run
from service.settings import Settings


class ToWorker(Protocol):
    """The way to the worker."""

    def send(self, **message: Any) -> None:
        """Tell it something."""

    async def ask(self, what: str, argument: Any, *, lease: LeaseToken) -> Any:
        """Ask it for something, and wait for the answer."""


async def open_context(job: Run, worker: ToWorker, settings: Settings) -> JobContext:
    """The context of one attempt, of the loop that this is awaited in."""

    async def ask(what: str, argument: Any) -> Any:
        return await worker.ask(what, argument, lease=job.lease_token)

    async def write(text: str) -> bool:
        return bool(await ask("progress", load_json(text)))

    def put(line: LogLine) -> None:
        worker.send(
            kind="log",
            lease=job.lease_token,
            level=line.level,
            message=line.message,
            fields=None if line.fields is None else load_json(line.fields),
        )

    # The worker counts lines and bytes once more: it need not trust this process.
    return JobContext(
        job_id=job.id,
        job_type=job.job_type,
        attempt=job.attempt,
        is_last_attempt=job.is_last_attempt,
        lease_token=job.lease_token,
        write=write,
        open_log=lambda job_id, lease_token, attempt: JobLog(
            job_id=job_id,
            lease_token=lease_token,
            attempt=attempt,
            max_lines=settings.job_log_lines,
            max_bytes=settings.job_log_bytes,
            put=put,
        ),
        read_parents=lambda _, after_id: ask("parents", after_id),
        open_steps=_no_steps,
        read_tick=lambda _: ask("tick", None),
    )


def _no_steps(_: object) -> NoReturn:
    raise StepError(
        'a handler with executor="process" has no steps, sleeps or waits for events: put them into a '
        "handler without it, which enqueues this job"
    )
