"""Makes the contexts that handlers get, wired to what writes and reads for them."""

from typing import Any

from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.handlers.chunk_job import ChunkJob
from service.jobs.handlers.context import JobContext
from service.jobs.handlers.parents import ParentReader
from service.jobs.handlers.step_record import StepAccess, StepRecord
from service.jobs.worker.log_lines import LogLines
from service.jobs.worker.progress import ProgressWriter
from service.jobs.worker.run import Run


class Contexts:
    """Makes the context of each run."""

    def __init__(
        self,
        *,
        policy: OutcomePolicy,
        progress: ProgressWriter,
        log_lines: LogLines,
        parents: ParentReader,
        steps: StepAccess,
    ) -> None:
        self._policy = policy
        self._progress = progress
        self._log_lines = log_lines
        self._parents = parents
        self._steps = steps

    def context(self, run: Run) -> JobContext:
        """What a handler gets beside the payload."""
        return JobContext(**self._parts(run))

    def in_chunk(self, run: Run, payload: Any) -> ChunkJob[Any]:
        """What a handler of chunks gets of one job."""
        return ChunkJob(payload=payload, **self._parts(run))

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
