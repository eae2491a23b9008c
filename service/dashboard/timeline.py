"""All that happened to a job, newest first."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.api.admin_schemas import ErrorEntry
from service.api.cancel_schema import CancelOut, cancel_out
from service.audit import AuditEntry
from service.audit.bounded import CUT
from service.dashboard.formats import duration
from service.dashboard.job_changes import differences, title_of
from service.dashboard.job_rows import seconds_between
from service.dashboard.job_values import write_value
from service.dashboard.payload_edit import Line, difference
from service.db.json_values import read_json
from service.jobs.core.job import BackgroundJob, JobId, JobStatus
from service.jobs.core.steps import StepKind
from service.jobs.read.detail import JsonText, read_history
from service.jobs.read.steps import JobStep

Write = Callable[[Any], str]

MAX_HISTORY_CHARS: Final = 400_000
"""Older entries of a history are left out once the newer ones are so long: some forty long tracebacks."""
MAX_ENTRY_CHARS: Final = 60_000
"""The longest entry; a worker writes none that is longer."""

ENDED: Final = {
    JobStatus.SUCCESS: "Succeeded",
    JobStatus.CANCELLED: "Cancelled",
    JobStatus.FAILED: "Failed for good: no retry could help",
    JobStatus.DEAD_LETTER: "Dead letter: its retries are used up",
}
_CANCELLED: Final = {
    "stopped": "Its handler stopped",
    "returned": "Its handler returned before it could be stopped, or in place of stopping: its result is not kept",
    "failed": "Its handler failed before it could be stopped",
    "ignored": "Its handler ran on after CANCEL_GRACE_SECONDS, and may do so yet",
}
"""What became of the handler of a cancelled job."""
_RETRIED: Final = "Retried by hand"
_EDITED: Final = "Edited"
_BY_OPERATION: Final = re.compile(r" \(operation (\d{1,18})\)$", re.ASCII)
_BY_HAND: Final = frozenset({"manual_retry", "cancelled", "changed", "superseded"})
_BEFORE: Final = "payload_before"
_SAME_SECONDS: Final = 5.0
"""How far apart one change may stand in a job's history and in the audit log."""

_TITLES: Final = {
    "error": "Attempt {attempt} failed",
    "lease_lost": "Attempt {attempt} lost its worker",
    "manual_retry": _RETRIED,
    "cancelled": "Cancelled by hand",
    "changed": "Changed by hand",
    "superseded": "A newer job took its place",
    "no_handler": "No worker handled its type",
    "unreadable": "An entry that was not written by the service",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened."""

    title: str
    at: datetime | None = None
    """None: nobody wrote it down."""
    kind: str = "note"
    """`error`, `good`, `note` or `now`: how it is marked."""
    by: str | None = None
    worker: str | None = None
    started_at: datetime | None = None
    run_seconds: float | None = None
    start_delay_seconds: float | None = None
    """How long after it was due the attempt began; None: unknown."""
    message: str | None = None
    traceback: str | None = None
    more: tuple[tuple[str, str], ...] = ()
    """What else is known, by name."""
    difference: tuple[Line, ...] = ()
    """What changed in the payload."""
    payload_before: str | None = None
    """The payload that was replaced, where nobody noted by what."""

    @property
    def operation_id(self) -> int | None:
        """The operation on many jobs that did it; its page says why."""
        found = _BY_OPERATION.search(self.by or "")
        return None if found is None else int(found[1])


def timeline(
    job: BackgroundJob,
    *,
    history: Sequence[ErrorEntry],
    now: datetime,
    worker: str | None,
    entries: Sequence[AuditEntry] = (),
    steps: Sequence[JobStep] = (),
    write: Write = write_value,
) -> list[Event]:
    """What happened to the job, newest first.

    Args:
        job: the job.
        history: its `errors`, oldest first.
        now: until when an attempt that runs has run.
        worker: the name of the worker that runs it, or ran it last.
        entries: what people did to it, newest first, from the audit log.
        steps: the steps of its handler, in order.
        write: how a payload is written, without what is masked.
    """
    changes = [_change(entry, write) for entry in reversed(entries)]
    taken = [_step(step, now, write) for step in steps]
    past = [_event(entry, write) for entry in history]
    # What was done by hand stands in the history too, and in the audit log with its reason.
    past = [
        event
        for event in past
        if not (event.title in {_RETRIED, _EDITED} and _is_known(event, changes))
    ]
    created = Event(title="Enqueued", at=job.created_at, by=job.enqueued_by)
    return [
        *_latest(job, now, worker),
        *reversed(_in_order(_in_order(past, changes), taken)),
        created,
    ]


async def history_of(session: AsyncSession, job_id: JobId) -> tuple[list[ErrorEntry], int]:
    """The newest entries of a job's history, whatever its column holds, and how many older ones there are."""
    history = await read_history(
        session, job_id, max_chars=MAX_HISTORY_CHARS, max_entry_chars=MAX_ENTRY_CHARS
    )
    return list(map(_entry, history.entries)), history.left_out


def _entry(text: JsonText) -> ErrorEntry:
    if text.is_whole:
        return ErrorEntry.of(read_json(text.text))
    words = f"{text.length} characters, too many to show here: {text.text[:500]}…"
    return ErrorEntry(event="unreadable", message=words)


def _latest(job: BackgroundJob, now: datetime, worker: str | None) -> list[Event]:
    if job.status == JobStatus.PENDING:
        return []
    delay = seconds_between(job.next_run_at, job.started_at)
    if job.status == JobStatus.RUNNING:
        running = seconds_between(job.started_at, now)
        title = f"Attempt {job.attempts} is running"
        return [
            Event(
                title=title,
                at=job.started_at,
                kind="now",
                worker=worker,
                run_seconds=running,
                start_delay_seconds=delay,
            )
        ]
    ended = Event(title=ENDED[JobStatus(job.status)], at=job.finished_at)
    if job.status == JobStatus.CANCELLED:
        return [_cancelled(ended, cancel_out(job.cancel))]
    if job.status != JobStatus.SUCCESS:
        return [replace(ended, kind="error")]
    return [
        replace(
            ended,
            kind="good",
            title=f"Attempt {job.attempts} succeeded",
            worker=worker,
            started_at=job.started_at,
            run_seconds=seconds_between(job.started_at, job.finished_at),
            start_delay_seconds=delay,
        )
    ]


def _cancelled(ended: Event, report: CancelOut | None) -> Event:
    """The end, with the report of the cancel."""
    if report is None or report.requested_at is None:
        return ended
    asked = report.requested_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    more = [("Asked for", f"{asked} by {report.by}" if report.by else asked)]
    seen = seconds_between(report.requested_at, report.seen_at)
    if seen is not None:
        more.append(("Its worker knew", f"{duration(seen)} later"))
    return replace(
        ended, message=_CANCELLED.get(report.how or "") or report.reason, more=tuple(more)
    )


def _event(entry: ErrorEntry, write: Write) -> Event:
    started, at = _moment(entry.started_at), _moment(entry.at)
    number = "?" if entry.attempt is None else entry.attempt
    known = _TITLES.get(entry.event)
    title = entry.event[:200] if known is None else known.format(attempt=number)
    extra = entry.model_extra or {}
    if entry.event == "changed" and _BEFORE in extra:
        title = _EDITED
    words = ": ".join(part for part in (entry.type, entry.message) if part)
    if title in {_RETRIED, _EDITED}:
        words = ""  # what the title says
    return Event(
        title=title,
        at=at,
        kind="note" if entry.event in _BY_HAND else "error",
        by=entry.by,
        worker=entry.worker,
        started_at=started,
        run_seconds=seconds_between(started, at),
        message=words or None,
        traceback=entry.traceback,
        more=(
            *(() if entry.chunk is None else (("In a chunk of", f"{entry.chunk:,} jobs"),)),
            *((name, _words(value)) for name, value in extra.items() if name != _BEFORE),
        ),
        payload_before=write(extra[_BEFORE]) if _BEFORE in extra else None,
    )


def _change(entry: AuditEntry, write: Write) -> Event:
    return Event(
        title=title_of(entry),
        at=entry.at,
        by=entry.actor,
        message=entry.reason,
        more=differences(entry),
        difference=tuple(_payloads(entry, write)),
    )


def _step(step: JobStep, now: datetime, write: Write) -> Event:
    """A step, where it ended; one that waits, where it began."""
    ended = step.finished_at
    match step.kind:
        case StepKind.CALL:
            title = f"Step {step.name} done"
        case StepKind.SLEEP:
            ended = None if step.waits(now) else step.wait_until
            title = (
                f"Sleeps at step {step.name}" if step.waits(now) else f"Slept at step {step.name}"
            )
        case StepKind.EVENT if step.timed_out:
            title = f"Event {step.name} did not come in time"
        case StepKind.EVENT:
            title = f"Event {step.name} came" if ended else f"Waits for event {step.name}"
    more = []
    if step.waits(now) and step.wait_until is not None:
        more.append(("until", step.wait_until.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")))
    if step.result is not None and step.result.is_whole:
        more.append(("result", _words(write(read_json(step.result.text)))))
    elif step.result is not None:
        more.append(("result", f"{step.result.length} characters, too many to show here"))
    return Event(
        title=title,
        at=ended or step.started_at,
        kind="now" if step.waits(now) else "note",
        started_at=step.started_at,
        run_seconds=seconds_between(step.started_at, ended) if step.kind is StepKind.CALL else None,
        more=tuple(more),
    )


def _payloads(entry: AuditEntry, write: Write) -> list[Line]:
    before, after = entry.before, entry.after
    if not (isinstance(before, dict) and isinstance(after, dict)) or "payload" not in after:
        return []
    if any(
        isinstance(one, dict) and CUT in one for one in (before.get("payload"), after["payload"])
    ):
        return []
    return difference(write(before.get("payload")), write(after["payload"]))


def _is_known(event: Event, changes: Sequence[Event]) -> bool:
    at = event.at
    return any(
        change.title == event.title
        and (event.payload_before is None or change.difference)  # the audit log may have cut it
        and change.at is not None
        and (at is None or abs((change.at - at).total_seconds()) < _SAME_SECONDS)
        for change in changes
    )


def _in_order(past: list[Event], changes: Sequence[Event]) -> list[Event]:
    """The history in its own order, with each change before the first entry that is later."""
    merged = list(past)
    for change in changes:
        place = len(merged)
        while place and _later(merged[place - 1], change):
            place -= 1
        merged.insert(place, change)
    return merged


def _later(event: Event, than: Event) -> bool:
    return event.at is not None and than.at is not None and event.at > than.at


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _words(value: Any) -> str:
    return str(value)[:2_000]
