"""What people did to a job, from the audit log, for its timeline."""

from typing import Any, Final

from service.audit import AuditEntry, AuditFilters, Outcome
from service.jobs.core.job import JobId, JobStatus

MAX_CHANGES: Final = 100
"""Entries of the audit log that a page shows."""

_TITLES: Final = {
    "job.enqueue": "Enqueued by hand",
    "job.retry": "Retried by hand",
    "job.cancel": "Cancelled by hand",
    "job.delete": "Deleted",
    "job.reschedule": "Moved to another time",
    "job.edit": "Edited",
    "job.run_now": "Made due at once",
    "job.clone": "Copied to a new job",
    "job.event": "Event sent",
    "payload.reveal": "Hidden values shown",
}


def changes_of(job_id: JobId, *, action: str | None = None) -> AuditFilters:
    """The entries of one job."""
    return AuditFilters(subject_type="job", subject_id=str(job_id), action=action)


def title_of(entry: AuditEntry) -> str:
    """What was done, in words."""
    words = _TITLES.get(entry.action, entry.action)
    if entry.action == "job.cancel" and _status_after(entry) == JobStatus.RUNNING:
        words = "Its cancel was asked for by hand"
    return f"{words}: refused" if entry.outcome is Outcome.REFUSED else words


def _status_after(entry: AuditEntry) -> object:
    return entry.after.get("status") if isinstance(entry.after, dict) else None


def differences(entry: AuditEntry) -> tuple[tuple[str, str], ...]:
    """What changed beside the payload, by name: `from → to`."""
    before = entry.before if isinstance(entry.before, dict) else {}
    after = entry.after if isinstance(entry.after, dict) else {}
    return tuple(
        (name, _change(before.get(name), after.get(name)))
        for name in dict.fromkeys((*before, *after))
        if name != "payload" and before.get(name) != after.get(name)
    )


def _change(before: Any, after: Any) -> str:
    return " → ".join(str(one)[:500] for one in (before, after) if one is not None)
