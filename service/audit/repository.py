"""Writes and reads the audit log. Entries are in the order of their ids, which no two share."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from service.audit.bounded import bounded_json, bounded_text
from service.audit.model import PYTHON, Actor, AuditEntry, AuditFilters, Outcome
from service.db.json_values import read_json
from service.db.session import CallerSession, fetch

MAX_TEXT_CHARACTERS: Final = 255
MAX_REASON_CHARACTERS: Final = 500

# The JSON is sent as text: SQLAlchemy and asyncpg encode jsonb each in its own way.
_RECORD: Final = """
INSERT INTO finmind_jobs.audit_log (actor, action, subject_type, subject_id, filter, before, after,
  reason, request_id, address, outcome)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8, $9, $10, $11)"""

_COLUMNS: Final = (
    # A time that Python's calendar lacks, written by hand, must not hide all other entries.
    "id, greatest(least(at, timestamptz '9999-12-30 00:00:00+00'), timestamptz '0001-01-02 00:00:00+00'),"
    " actor, action, subject_type, subject_id, filter::text, before::text, after::text,"
    " reason, request_id, address, outcome"
)
_LATELY: Final = """
SELECT DISTINCT action, subject_type FROM (
  SELECT action, subject_type FROM finmind_jobs.audit_log ORDER BY id DESC LIMIT 2000) newest
ORDER BY action LIMIT 200"""
_CONDITIONS: Final = {
    "actor": "actor = ${}",
    "action": "action = ${}",
    "subject_type": "subject_type = ${}",
    "subject_id": "subject_id = ${}",
    "outcome": "outcome = ${}",
    "since": "at >= ${}",
    "until": "at < ${}",
}


async def record(
    session: CallerSession,
    actor: Actor | None,
    action: str,
    *,
    subject_type: str,
    subject_id: str | None = None,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - the column's name
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
    outcome: Outcome = Outcome.DONE,
) -> None:
    """Write one entry, in the caller's transaction.

    Args:
        session: holds the transaction of the change.
        actor: who does it; None for Python code that names nobody.
        action: a dotted word: `job.retry`, `api_key.create`.
        subject_type: what kind of thing it is done to: `job`, `api_key`.
        subject_id: which one; None where it is many, or none in particular.
        filter: which ones, where a filter chose them.
        before: what the change replaces, by name; only what changes.
        after: what it became.
        reason: why, in the words of who did it.
        outcome: whether it was done or refused.
    """
    actor = actor or Actor(PYTHON)
    await fetch(
        session,
        _RECORD,
        bounded_text(actor.subject, MAX_TEXT_CHARACTERS),
        action,
        subject_type,
        _text(subject_id),
        bounded_json(filter),
        bounded_json(before),
        bounded_json(after),
        bounded_text(reason, MAX_REASON_CHARACTERS) if reason else None,
        _text(actor.request_id),
        _text(actor.address),
        outcome.value,
    )


async def newest(
    session: CallerSession, filters: AuditFilters, *, limit: int, before_id: int | None = None
) -> list[AuditEntry]:
    """Entries with ids below `before_id`, newest first."""
    return await _read(session, filters, "id < ${}", before_id, order="DESC", limit=limit)


async def oldest(
    session: CallerSession, filters: AuditFilters, *, limit: int, after_id: int | None = None
) -> list[AuditEntry]:
    """Entries with ids above `after_id`, oldest first."""
    return await _read(session, filters, "id > ${}", after_id, order="ASC", limit=limit)


async def find(session: CallerSession, entry_id: int) -> AuditEntry | None:
    """One entry; None: there is none of this number, or no longer."""
    found = await oldest(session, AuditFilters(), limit=1, after_id=entry_id - 1)
    return found[0] if found and found[0].id == entry_id else None


async def lately(session: CallerSession) -> list[tuple[str, str]]:
    """The actions of the newest entries, each with what it was done to: what a filter may offer."""
    return [(row[0], row[1]) for row in await fetch(session, _LATELY)]


async def _read(
    session: CallerSession,
    filters: AuditFilters,
    position: str,
    position_id: int | None,
    *,
    order: str,
    limit: int,
) -> list[AuditEntry]:
    wanted: list[tuple[str, object]] = [
        (condition, getattr(filters, name)) for name, condition in _CONDITIONS.items()
    ]
    wanted.append((position, position_id))
    given = [(condition, value) for condition, value in wanted if value is not None]
    clauses = [condition.format(number) for number, (condition, _) in enumerate(given, 1)]
    where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
    # Made of constants alone.
    statement = (
        f"SELECT {_COLUMNS} FROM finmind_jobs.audit_log{where}"  # noqa: S608
        f" ORDER BY id {order} LIMIT {limit:d}"
    )
    rows = await fetch(session, statement, *[value for _, value in given])
    return [_entry(row) for row in rows]


def _entry(row: Sequence[Any]) -> AuditEntry:
    number, at, actor, action, kind, subject_id, *documents, reason, request_id, address, done = row
    chosen, before, after = (None if text is None else read_json(text) for text in documents)
    return AuditEntry(
        id=number,
        at=at,
        actor=actor,
        action=action,
        subject_type=kind,
        subject_id=subject_id,
        filter=chosen,
        before=before,
        after=after,
        reason=reason,
        request_id=request_id,
        address=address,
        outcome=Outcome(done),
    )


def _text(value: str | None) -> str | None:
    return None if value is None else bounded_text(value, MAX_TEXT_CHARACTERS)
