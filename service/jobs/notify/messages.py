"""What processes tell each other by NOTIFY.

A message is JSON. A list of lanes is a `Wake`: every version has written and read it so. Any other
kind is an object that names its `kind` and its version `v`. Who reads a kind or a version that it
does not know looks at the table instead: a rolling upgrade loses nothing by it.
"""

import json
from dataclasses import dataclass
from typing import Final, TypeAlias

from service.jobs.core.lane import Lane

MAX_LANES: Final = 100
"""Limit on the lanes that one message names; with more, the reader looks for itself."""

MAX_NOTIFY_BYTES: Final = 7999
"""PostgreSQL refuses longer notifications."""


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
    """Read a notification; what is empty, of an unknown kind or not ours is a `Look`."""
    try:
        named = json.loads(text)
        lanes = tuple(Lane(str(queue), int(priority)) for queue, priority in named)
    except (ValueError, TypeError):
        return Look()
    return Wake(lanes) if lanes else Look()
