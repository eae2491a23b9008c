"""Make and drop the day partitions of finished jobs."""

from typing import Final

TODAY: Final = "SELECT (now() AT TIME ZONE 'UTC')::date"


DAY_LEAVES: Final = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'finmind_jobs.jobs_done'::regclass
"""


DAY_TABLES: Final = """
SELECT c.relname FROM pg_class c JOIN pg_class p ON p.relnamespace = c.relnamespace
WHERE p.oid = 'finmind_jobs.jobs_done'::regclass AND c.relkind = 'r'
  AND c.relname ~ '^jobs_done_[0-9]{8}$'
"""
"""The same, and those that a leader had begun to fill when it ended: not attached yet."""


COPY_LATE: Final = """
SELECT last_at, last_id
FROM finmind_jobs.jobs_copy_late($1::date, COALESCE($2::timestamptz, '-infinity'), $3::bigint, $4::int)
"""


MAKE_DAY: Final = "SELECT finmind_jobs.jobs_make_day($1)"


DROP_DAY: Final = "SELECT finmind_jobs.jobs_drop_day($1)"
