"""Makes what handlers are called with: payloads, and contexts wired to what writes and reads for them."""

from typing import Any

from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.handlers.captured import capture
from service.jobs.handlers.chunk_job import ChunkJob
from service.jobs.handlers.context import JobContext
from service.jobs.handlers.parents import ParentReader
from service.jobs.handlers.payload import load_payload, opened_payload
from service.jobs.handlers.step_record import StepAccess, StepRecord
from service.jobs.worker.log_lines import LogLines
from service.jobs.worker.progress import ProgressWriter
from service.jobs.worker.run import Run
from service.settings import Settings


class Contexts:
    """Makes the arguments and the context of each run."""

    def __init__(
        self,
        settings: Settings,
        *,
        policy: OutcomePolicy,
        progress: ProgressWriter,
        log_lines: LogLines,
        parents: ParentReader,
        steps: StepAccess,
    ) -> None:
        self._settings = settings
        self._policy = policy
        self._progress = progress
        self._log_lines = log_lines
        self._parents = parents
        self._steps = steps

    def arguments(self, run: Run) -> tuple[Any, ...]:
        """What the handler of a run is called with; its context, if it needs one, is made.

        Raises:
            InvalidPayload: the payload cannot be read, or the model refuses it.
            PayloadKeyMissing: this process cannot decrypt it.
        """
        text = opened_payload(run.job.payload, run.job.job_type, run.policy)
        payload = load_payload(text, run.policy.payload_model)
        if run.handler.chunk is not None:
            run.context = job = ChunkJob(payload=payload, **self._parts(run))
            return (job,)
        captures = run.policy.captures_logging(self._settings)
        if not run.handler.takes_context and not captures:
            return (payload,)
        run.context = self.context(run)
        if captures:
            capture(run.context.keep_line)
        return (payload, run.context) if run.handler.takes_context else (payload,)

    def context(self, run: Run) -> JobContext:
        """What a handler gets beside the payload."""
        return JobContext(**self._parts(run))

    def _parts(self, run: Run) -> dict[str, Any]:
        job = run.job
        return {
            "job_id": job.id,
            "job_type": job.job_type,
            "attempt": job.attempt,
            "is_last_attempt": self._policy.is_last(run),
            "lease_token": job.lease_token,
            "write": lambda text: self._progress.write(job, text),
            "open_log": self._log_lines.open,
            "read_parents": self._parents.page,
            "open_steps": lambda loop: StepRecord(
                job, self._steps, loop=loop, stopped=lambda: run.stop is not None
            ),
            "read_tick": self._parents.tick,
        }
