"""The audit log: who did what, when, and what it changed. Append-only.

`record` writes an entry in the caller's transaction: a change that is rolled back leaves none.

    await audit.record(
        session, actor, "job.cancel", subject_type="job", subject_id="42",
        before={"status": "PENDING"}, after={"status": "CANCELLED"}, reason="sent twice",
    )
"""

from service.audit.model import PYTHON, Actor, AuditEntry, AuditFilters, Outcome
from service.audit.repository import record

__all__ = ["PYTHON", "Actor", "AuditEntry", "AuditFilters", "Outcome", "record"]
