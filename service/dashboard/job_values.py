"""Payload, result and progress of a job as its page shows them, masked and hidden as settings say."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from service.dashboard import json_view
from service.dashboard.json_view import Node, Shown
from service.errors import Forbidden
from service.jobs.read.detail import JsonText
from service.settings import Settings

MAX_TREE_CHARS: Final = 60_000
"""The longest JSON that is shown as a tree: some 0.1 s at worst. A longer one can be had as text."""
MAX_TEXT_CHARS: Final = 30_000
"""The longest JSON that stands on the page as text, to be copied."""
MAX_WHOLE_CHARS: Final = 2_000_000
"""The longest JSON that can be had as text."""
MAX_SORTED_CHARS: Final = 300_000
"""The longest JSON that is had with its keys sorted: a second of work; a longer one as it is stored."""


class Revealed(IntEnum):
    """How much of a job's values a reader asked for."""

    NOTHING = 0
    PAYLOADS = 1
    """What the setting hides, without the masked fields."""
    EVERYTHING = 2


@dataclass(frozen=True, slots=True)
class Value:
    """One JSON value."""

    name: str
    title: str
    hidden: bool = False
    shown: Shown | None = None
    """None: it is hidden, or too long."""
    text: str | None = None
    """All of it, to be copied; None where it is hidden or long."""
    length: int = 0
    masked: int = 0
    """How many members are masked."""
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is; a `fraction` of None: its handler reported nothing that is one."""

    fraction: float | None
    message: str


def value_of(
    name: str,
    title: str,
    *,
    source: JsonText | None,
    settings: Settings,
    revealed: Revealed,
    redacted: Collection[str] = (),
) -> Value | None:
    """The value as it is shown; None where there is none.

    Args:
        name: its column.
        title: its heading.
        source: the value.
        settings: what they hide, as far as the reader has not asked for it.
        revealed: what the reader asked for.
        redacted: members that nobody is shown, whoever asks (`core/redaction.py`).
    """
    if source is None:
        return None
    if settings.dashboard_hide_payloads and revealed < Revealed.PAYLOADS:
        return Value(name, title, hidden=True, length=source.length)
    if not source.is_whole:
        return Value(name, title, length=source.length, is_cut=True)
    node = _parsed(source.text, settings, revealed, redacted)
    shown = json_view.show(node)
    text = json_view.write(node) if source.length <= MAX_TEXT_CHARS else None
    return Value(
        name,
        title,
        shown=shown,
        text=text,
        length=source.length,
        masked=json_view.masks_in(node),
        is_cut=json_view.is_cut(shown),
    )


def whole_text(
    source: JsonText, settings: Settings, *, name: str, redacted: Collection[str] = ()
) -> str:
    """All of a value as text, without the masked fields.

    Raises:
        Forbidden: values are hidden, or it is too long.
    """
    if settings.dashboard_hide_payloads:
        raise Forbidden(
            f"The {name} is hidden (DASHBOARD_HIDE_PAYLOADS): show it on the page of its job"
        )
    if not source.is_whole:
        raise Forbidden(
            f"The {name} has {source.length} characters, more than the {MAX_WHOLE_CHARS} that pages "
            "show: read it with GET /admin/jobs/{id}"
        )
    hidden = (*settings.dashboard_masked_fields, *redacted)
    names = [json.dumps(name, ensure_ascii=False) for name in hidden]
    folded = source.text.lower()
    if source.length > MAX_SORTED_CHARS and not any(name.lower() in folded for name in names):
        return source.text
    return json_view.write(_parsed(source.text, settings, Revealed.NOTHING, redacted))


def write_value(value: Any, *, masked: Collection[str] = ()) -> str:
    """A value of Python as JSON text, without the members of the names in `masked`."""
    return json_view.write(json_view.parse(json.dumps(value, ensure_ascii=False), masked))


def written(
    value: Any, *, settings: Settings, revealed: Revealed, redacted: Collection[str] = ()
) -> str:
    """A payload of the history as text, masked and hidden as that of the job."""
    if settings.dashboard_hide_payloads and revealed < Revealed.PAYLOADS:
        return '"hidden"'
    return write_value(value, masked=_masked(settings, revealed, redacted))


def progress_of(source: JsonText | None, settings: Settings) -> Progress | None:
    """The progress that a handler reported last; None where there is none."""
    if source is None or not source.is_whole:
        return None
    node = _parsed(source.text, settings, Revealed.NOTHING)
    members = {child.key: child for child in node.children if node.kind == "object"}
    fraction, message = members.get("fraction"), members.get("message")
    if fraction is None or fraction.kind != "number":
        return Progress(None, json_view.write(node)[:1_000])
    number = min(1.0, max(0.0, float(fraction.text)))
    words = message.string if message is not None and message.kind == "string" else ""
    return Progress(number, words)


def _parsed(
    text: str, settings: Settings, revealed: Revealed, redacted: Collection[str] = ()
) -> Node:
    return json_view.parse(text, _masked(settings, revealed, redacted))


def _masked(settings: Settings, revealed: Revealed, redacted: Collection[str]) -> tuple[str, ...]:
    own = () if revealed >= Revealed.EVERYTHING else settings.dashboard_masked_fields
    return (*own, *redacted)
