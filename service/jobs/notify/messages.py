"""What processes tell each other by NOTIFY.

A message is JSON. A list of lanes is a `Wake`: every version has written and read it so. Any other
kind is an object that names its `kind` and its version `v`. Who reads a kind or a version that it
does not know looks at the table instead: a rolling upgrade loses nothing by it.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from service.jobs.core.job import MAX_ID, JobId
from service.jobs.core.lane import Lane

MAX_LANES: Final = 100
"""Limit on the lanes that one message names; with more, the reader looks for itself."""

MAX_IDS: Final = 300
"""Limit on the jobs that one message names: of the largest ids so many fit into a notification."""

MAX_NOTIFY_BYTES: Final = 7999
"""PostgreSQL refuses longer notifications."""

PRIORITIES: Final = range(-(2**15), 2**15)
"""What a `smallint` holds: plain SQL may write any."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Jobs were committed in these lanes, or others that the message has no room for."""

    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Policies:
    """An operator changed what a queue allows: read it before the next claim."""


@dataclass(frozen=True, slots=True)
class Look:
    """Something happened: look at the table."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Somebody has a dashboard open: say `Changed` for a while."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Jobs changed: what a dashboard shows is outdated."""


@dataclass(frozen=True, slots=True)
class Endings:
    """Jobs ended that others wait for: see what becomes of those."""


@dataclass(frozen=True, slots=True)
class Schedules:
    """A schedule was made or changed: see when the next one is due."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody asked for the cancel of these running jobs; none: of more than a message has room for."""

    ids: tuple[JobId, ...]


@dataclass(frozen=True, slots=True)
class Follow:
    """Somebody follows these jobs: say `Moved` of them for a while."""

    ids: tuple[JobId, ...]
    by: str
    """The process that asks; it hears of its own jobs without a message."""


@dataclass(frozen=True, slots=True)
class Moved:
    """These jobs, which somebody follows, changed or ended."""

    ids: tuple[JobId, ...]


Message: TypeAlias = (
    Wake | Policies | Look | Watch | Changed | Endings | Schedules | Cancel | Follow | Moved
)

_KINDS: Final[dict[tuple[str, int], Message]] = {
    ("policies", 1): Policies(),
    ("watch", 1): Watch(),
    ("changed", 1): Changed(),
    ("endings", 1): Endings(),
    ("schedules", 1): Schedules(),
}
_NAMES: Final = {message: name for name, message in _KINDS.items()}


def encode(message: Message) -> str:
    """The text of a notification; a `Wake` that is too long to name its lanes becomes a `Look`."""
    match message:
        case Cancel(ids):
            named = ids if len(ids) <= MAX_IDS else ()
            return json.dumps({"kind": "cancel", "v": 1, "ids": named})
        case Follow(ids, by):
            return json.dumps({"kind": "follow", "v": 1, "by": by, "ids": ids})
        case Moved(ids):
            return json.dumps({"kind": "moved", "v": 1, "ids": ids})
    if name := _NAMES.get(message):
        kind, version = name
        return json.dumps({"kind": kind, "v": version})
    if isinstance(message, Wake) and len(message.lanes) <= MAX_LANES:
        text = json.dumps(sorted(message.lanes))
        if len(text) <= MAX_NOTIFY_BYTES:
            return text
    return "[]"


def decode(text: str) -> Message:
    """Read a notification; what is empty, of an unknown kind or not ours is a `Look`.

    Any role may NOTIFY, whatever the text: a lane that no table can hold would fail every claim.
    """
    try:
        value = json.loads(text)
        if isinstance(value, dict):
            return _of_kind(value)
        lanes = tuple(_lane(queue, priority) for queue, priority in value)
    except (LookupError, ValueError, TypeError, OverflowError, RecursionError):
        return Look()
    return Wake(lanes) if lanes else Look()


def _of_kind(value: dict[str, Any]) -> Message:
    match value["kind"], value["v"]:
        case "cancel", 1:
            return Cancel(_ids(value["ids"]))
        case "follow", 1:
            return Follow(_ids(value["ids"]), str(value["by"]))
        case "moved", 1:
            return Moved(_ids(value["ids"]))
        case kind:
            return _KINDS.get(kind, Look())


def _ids(ids: Any) -> tuple[JobId, ...]:
    """The ids of jobs.

    Raises:
        ValueError: no column of the table can hold one of them.
    """
    numbers = tuple(JobId(int(one)) for one in ids)
    if any(not 0 < number <= MAX_ID for number in numbers):
        raise ValueError("not a job")
    return numbers


def _lane(queue: object, priority: Any) -> Lane:
    """The lane of that name.

    Raises:
        ValueError: no column of the table can hold it.
    """
    lane = Lane(str(queue), int(priority))
    # A lone surrogate is not UTF-8: encoding it is a ValueError.
    if b"\0" in lane.queue.encode() or lane.priority not in PRIORITIES:
        raise ValueError("not a lane")
    return lane
