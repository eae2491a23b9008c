"""The rescue of orphans: RUNNING jobs whose worker died or stalled, so that their lease has ended.

A claim takes them like jobs that are due (`store/claim.py`), and sweeps reach them below the watermarks
(`plan/sweep.py`). Those of queues with limits, of which claims may take nothing, are looked for apart
(`plan/orphans.py`). What becomes of one that loses lease after lease is
decided in `core/poison.py`.
"""

from collections.abc import Iterable

from service.jobs.core.claimed_job import ClaimedJob
from service.observability.logging import get_logger
from service.observability.metrics import record_event

_log = get_logger(__name__)


def note_rescued(jobs: Iterable[ClaimedJob]) -> None:
    """Count and log those of the claimed jobs that were rescued."""
    for job in jobs:
        if job.rescued:
            record_event("rescued", job.job_type)
            _log.warning("job_rescued", job_id=job.id, job_type=job.job_type, lost=job.lost_leases)
