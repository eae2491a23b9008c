"""The options by which `schedules create`, `change` and `backfill` are told what they are about."""

import argparse
import json
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from service.errors import InvalidInput
from service.schedules.change_schema import ScheduleChange
from service.schedules.model import CatchUp, Overlap
from service.schedules.schemas import ScheduleIn

Model = TypeVar("Model", bound=BaseModel)

_TEXTS: Final = (
    ("cron", "minute, hour, day, month and weekday, or @daily and such"),
    ("zone", "IANA time zone whose clock --cron means (default UTC)"),
    ("queue", "where its jobs wait"),
    ("concurrency-key", "of its jobs"),
    ("tick-member", "the member of the payload that tells each job its tick"),
)
_NUMBERS: Final = (
    ("every-seconds", float, "from one tick to the next, in place of --cron"),
    ("priority", int, "of its jobs: 0, most urgent, to 9"),
    ("max-retries", int, "of each job"),
    ("timeout-seconds", float, "of one attempt"),
    ("catch-up-seconds", float, "how late a tick may still run (default 3600)"),
    ("jitter-seconds", float, "limit on how long after its tick a job is due"),
    ("pause-after-failures", int, "pause it after so many failed runs in a row"),
)


def add_definition(parser: argparse.ArgumentParser) -> None:
    """Add what a schedule is made of; what is left out is absent."""
    for name, what in _TEXTS:
        parser.add_argument(f"--{name}", help=what)
    for name, kind, what in _NUMBERS:
        parser.add_argument(f"--{name}", type=kind, metavar="NUMBER", help=what)
    parser.add_argument("--payload", type=_json, metavar="JSON", help="of its jobs")
    parser.add_argument("--overlap", choices=list(Overlap), help="ticks while a run has not ended")
    parser.add_argument(
        "--catch-up", choices=list(CatchUp), help="ticks that no worker was there for"
    )


def add_backfill(parser: argparse.ArgumentParser) -> None:
    """Add which ticks a backfill runs."""
    parser.add_argument("--from", dest="begin", type=_time, required=True, metavar="TIME")
    parser.add_argument("--until", type=_time, metavar="TIME", help="not included (default now)")
    parser.add_argument(
        "--overlap",
        choices=[one for one in Overlap if one is not Overlap.CANCEL_OTHER],
        default=Overlap.QUEUE_ALL,
        help="each run beside those before it (default queue_all: one after the other)",
    )


def new_schedule(arguments: argparse.Namespace) -> ScheduleIn:
    """What `create` was told.

    Raises:
        InvalidInput: the option, the value and the rule are named.
    """
    return _read(ScheduleIn, arguments)


def changes(arguments: argparse.Namespace) -> ScheduleChange:
    """What `change` was told.

    Raises:
        InvalidInput: as `new_schedule`.
    """
    return _read(ScheduleChange, arguments)


def _read(model: type[Model], arguments: argparse.Namespace) -> Model:
    given = vars(arguments)
    values = {name: given[name] for name in model.model_fields if given.get(name) is not None}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"]))
        words = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(
            f"{name} is {str(first['input'])[:80]!r}: {words}" if name else words
        ) from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not JSON: {error}") from None


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time with a zone: expected one such as 2026-03-01T09:00:00Z"
        )
    return moment
