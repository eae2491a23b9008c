"""Steps that wait: for a time, or for an event. The job frees its slot and comes back."""

from datetime import datetime
from typing import Any

from service.jobs.core.steps import EventTimeout, StepKind, check_event_name, seconds_until
from service.jobs.handlers.step_calls import value_of
from service.jobs.handlers.step_record import StepRecord


async def sleep(
    record: StepRecord, name: str, *, seconds: float = 0.0, until: datetime | None = None
) -> None:
    """Return once the time is over, which the first attempt that comes here sets.

    Raises:
        Suspend: it is not over yet.
        StepError: `until` is not a time with a zone, or over a year away; or see `StepRecord`.
    """
    record.take(name)
    left = seconds if until is None else seconds_until(until)
    if (known := await record.find(name, StepKind.SLEEP)) is not None:
        left = record.seconds_left(known)
    elif left > 0:
        await record.store(name, StepKind.SLEEP, wait_seconds=left, wait_until=until)
    if left > 0:
        raise record.suspend(name, StepKind.SLEEP)


async def wait_for_event(record: StepRecord, name: str, *, seconds: float) -> Any:
    """What was sent to the job under this name, whether before or since.

    Raises:
        Suspend: nothing yet.
        EventTimeout: nothing for `seconds`, since the first attempt that came here.
        StepError: see `StepRecord`.
    """
    record.take(check_event_name(name))
    known = await record.find(name, StepKind.EVENT)
    if known is None:
        known = await record.store(name, StepKind.EVENT, wait_seconds=seconds)
    if not known.is_done:
        known = await record.end_wait(name)
    if known is None:
        raise record.suspend(name, StepKind.EVENT)
    if known.timed_out:
        raise EventTimeout(f"No event {name!r} was sent to the job in time")
    return value_of(known)
