"""A schedule in the boxes of a form, and what a sent form makes of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from service.dashboard import json_view
from service.dashboard.job_values import write_value
from service.dashboard.payload_edit import read_payload
from service.errors import FinMindError, InvalidInput
from service.jobs.core.redaction import redact_for
from service.schedules.model import CatchUp, Definition, Overlap
from service.schedules.schemas import ScheduleIn
from service.settings import Settings

TEXTS: Final = (
    "cron",
    "zone",
    "job_type",
    "tick_member",
    "queue",
    "concurrency_key",
    "overlap",
    "catch_up",
)
WHOLES: Final = ("priority", "max_retries", "pause_after_failures")
NUMBERS: Final = ("every_seconds", "timeout_seconds", "catch_up_seconds", "jitter_seconds")
BOXES: Final = ("name", *TEXTS, *WHOLES, *NUMBERS, "payload", "reason")

OVERLAPS: Final[dict[str, str]] = {
    Overlap.SKIP: "is skipped",
    Overlap.QUEUE_ONE: "waits for its end, as the only one that waits",
    Overlap.QUEUE_ALL: "waits for its end, however many wait",
    Overlap.CANCEL_OTHER: "cancels it, and starts once it has ended",
    Overlap.ALLOW: "starts beside it",
}
"""What becomes of a tick while a run before it has not ended."""
CATCH_UPS: Final[dict[str, str]] = {
    CatchUp.ONE: "the newest of them runs",
    CatchUp.ALL: "each of them runs",
    CatchUp.NONE: "none of them runs",
}
"""What becomes of ticks that nobody was there for."""
FIRST: Final[dict[str, str]] = {"zone": "UTC", "payload": "{}", "catch_up_seconds": "3600"}
"""What the form of a new schedule holds."""


class Refused(Exception):
    """What the form holds is no schedule: what is wrong, by the names of the boxes."""

    def __init__(self, errors: dict[str, str], *, status: int = 422) -> None:
        super().__init__(str(errors))
        self.errors = errors
        self.status = status


def written(definition: Definition, settings: Settings) -> dict[str, str]:
    """What the boxes hold; that of the payload is left out where the payload has hidden values."""
    timing = definition.timing
    own: dict[str, Any] = {
        "cron": timing.cron,
        "every_seconds": timing.every_seconds,
        "zone": timing.zone,
        "overlap": definition.overlap.value,
        "catch_up": definition.catch_up.value,
    }
    values = {
        name: own[name] if name in own else getattr(definition, name)
        for name in (*TEXTS, *WHOLES, *NUMBERS)
    }
    boxes = {name: _text(value) for name, value in values.items() if value not in (None, "")}
    if (payload := _payload(definition, settings)) is not None:
        boxes["payload"] = payload
    return boxes


def read(given: Mapping[str, str], *, unless_written: Any = None) -> ScheduleIn:
    """The schedule that the form stands for.

    Args:
        given: what its boxes hold, by their names.
        unless_written: the payload where its box is empty; an empty object where None.

    Raises:
        Refused: a box holds what it may not.
    """
    errors: dict[str, str] = {}
    values: dict[str, Any] = {
        name: text for name in ("name", *TEXTS) if (text := _given(given, name))
    }
    for name in (*WHOLES, *NUMBERS):
        if text := _given(given, name):
            values[name] = _number(text, whole=name in WHOLES)
    text = _given(given, "payload")
    try:
        if text:
            values["payload"] = read_payload(text, job_type="")
        elif unless_written is not None:
            values["payload"] = unless_written
    except InvalidInput as error:
        errors["payload"] = error.detail
    try:
        made = ScheduleIn.model_validate(values)
    except ValidationError as error:
        raise Refused(by_box(error.errors(include_url=False)) | errors) from None
    if errors:
        raise Refused(errors)
    return made


def by_box(errors: Sequence[Any], *, skip: int = 0) -> dict[str, str]:
    """What is wrong, beside the box that it is about; under an empty name what belongs to none."""
    found: dict[str, str] = {}
    for error in errors:
        path = [str(part) for part in error["loc"]][skip:]
        words = str(error["msg"]).removeprefix("Value error, ")
        if len(path) > 1:
            words = f"{'.'.join(path[1:])}: {words}"
        found.setdefault(path[0] if path and path[0] in BOXES else "", words)
    return found


def box_of(error: FinMindError) -> str:
    """The box that an error of the domain is about; nothing where it is about none."""
    name = (getattr(error, "field", None) or "").rpartition(".")[2]
    return name if name in BOXES else ""


def _payload(definition: Definition, settings: Settings) -> str | None:
    """The payload as text; None where a reader of the page does not see all of it."""
    shown = redact_for(definition.job_type, definition.payload)
    text = write_value(definition.payload, masked=settings.dashboard_masked_fields)
    masks = json_view.masks_in(json_view.parse(text, settings.dashboard_masked_fields))
    if settings.dashboard_hide_payloads or shown != definition.payload or masks:
        return None
    return text


def _given(given: Mapping[str, str], name: str) -> str:
    return given.get(name, "").strip()


def _number(text: str, *, whole: bool) -> int | float | str:
    """What the text says; the text where that is no number: the model refuses it in words."""
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return text


def _text(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)
