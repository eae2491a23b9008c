"""What can happen to a job.

One list: what `finmind_job_events_total` counts and documents is made from it.
"""

from collections.abc import Mapping
from typing import Final

REASONS_BY_EVENT: Final[Mapping[str, tuple[str, ...]]] = {
    "enqueued": ("ok",),
    "succeeded": ("ok",),
    "retried": ("error", "timeout", "died", "retry_after", "cancelled_itself"),
    "dead_lettered": (
        "error", "timeout", "died", "retry_after", "cancelled_itself", "lease_lost", "poison",
    ),
    "failed": ("permanent", "bad_payload", "bad_result", "no_handler", "refused"),
    "manual_retry": ("ok",),
    "cancel_requested": ("ok",),
    "cancelled": ("ok", "parent", "batch", "limit", "superseded", "not_started", "stopped", "returned", "failed", "ignored"),
    "snoozed": ("ok",),
    "suspended": ("sleep", "event"),
    "held": ("concurrency", "rate"),
    "released": ("ok",),
    "postponed": ("ok",),
    "rescued": ("ok",),
    "stale_settle": ("lease_lost",),
    "stale_heartbeat": ("lease_lost",),
    "stale_progress": ("lease_lost",),
    "stale_step": ("lease_lost",),
}  # fmt: skip
"""Each event in the life of a job, with the reasons that it can have; `ok` where none is needed."""
