"""Change single jobs by hand: retry, cancel, delete, reschedule."""

from typing import Final

from service.jobs.core.fields import RETRIED
from service.jobs.store.fragments import (
    COUNT,
    MANUAL_RETRY_ENTRY,
    NO_LEASE,
    history,
    keep_ended,
    move,
)

_RETRIED: Final = move(
    "jobs_live",
    RETRIED,
    {
        "next_run_at": "clock_timestamp()",
        "errors": history("errors", MANUAL_RETRY_ENTRY, keep="$3"),
    },
)


RETRY_DEAD: Final = f"""
WITH gone AS (DELETE FROM finmind_jobs.jobs_dead WHERE id = $1 RETURNING *),
counted AS ({COUNT.format(sign="-", source="gone")})
{_RETRIED}
RETURNING id, job_type, queue, priority
"""


CANCEL: Final = f"""
WITH gone AS (DELETE FROM finmind_jobs.jobs_live WHERE id = $1 AND status = 'PENDING' RETURNING *),
{keep_ended(NO_LEASE | {"status": "'CANCELLED'"})}
SELECT id, job_type FROM kept
"""


DELETE: Final = f"""
WITH gone AS (
  DELETE FROM finmind_jobs.background_jobs WHERE id = $1 AND status <> 'RUNNING'
  RETURNING id, queue, job_type, status, finished_at),
counted AS ({COUNT.format(sign="-", source="gone")})
SELECT id FROM gone
"""


RESCHEDULE: Final = """
UPDATE finmind_jobs.jobs_live SET next_run_at = $2 WHERE id = $1 AND status = 'PENDING'
RETURNING id, queue, priority
"""


STATUS_OF: Final = "SELECT status FROM finmind_jobs.background_jobs WHERE id = $1"
