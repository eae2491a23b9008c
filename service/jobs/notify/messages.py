"""What processes tell each other by NOTIFY.

A message is JSON. A list of lanes is a `Wake`: every version has written and read it so. Any other
kind is an object that names its `kind` and its version `v`. Who reads a kind or a version that it
does not know looks at the table instead: a rolling upgrade loses nothing by it.
"""

import json
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from service.jobs.core.lane import Lane

MAX_LANES: Final = 100
"""Limit on the lanes that one message names; with more, the reader looks for itself."""

MAX_NOTIFY_BYTES: Final = 7999
"""PostgreSQL refuses longer notifications."""

PRIORITIES: Final = range(-(2**15), 2**15)
"""What a `smallint` holds: plain SQL may write any."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Jobs were committed in these lanes, or others that the message has no room for."""

    lanes: tuple[Lane, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """Something happened: look at the table."""


Message: TypeAlias = Wake | Look


def encode(message: Message) -> str:
    """The text of a notification; a `Wake` that is too long to name its lanes becomes a `Look`."""
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
        lanes = tuple(_lane(queue, priority) for queue, priority in json.loads(text))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return Look()
    return Wake(lanes) if lanes else Look()


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
