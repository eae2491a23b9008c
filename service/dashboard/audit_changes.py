"""What an entry of the audit log changed, value by value, masked as payloads are."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.audit.bounded import CUT
from service.audit.model import AuditEntry
from service.dashboard import json_view
from service.dashboard.json_view import MASK, Node, Shown
from service.settings import Settings

MAX_CHANGES: Final = 500
MAX_VALUE_CHARS: Final = 2_000
"""Of one value that changed; the whole stands in the tree below."""
MAX_LINE_ITEMS: Final = 20
PAYLOADS: Final = ("payload", "result")


@dataclass(frozen=True, slots=True)
class Change:
    """One value before and after; None where it was not there."""

    path: str
    before: str | None
    after: str | None


def changes_of(entry: AuditEntry, settings: Settings) -> list[Change]:
    """The values that differ, in the order of their names; up to `MAX_CHANGES`."""
    before = _leaves(_node(entry.before, settings))
    after = _leaves(_node(entry.after, settings))
    paths = sorted(before.keys() | after.keys())
    differing = (Change(path, before.get(path), after.get(path)) for path in paths)
    made_or_removed = entry.before is None or entry.after is None
    found = [
        one
        for one in differing
        if (one.before != one.after or MASK in {one.before, one.after})
        # That a new thing lacks something is no change.
        and not (made_or_removed and "null" in {one.before, one.after})
    ]
    return found[:MAX_CHANGES]


def length_of(entry: AuditEntry) -> int:
    """How much an entry holds, in characters."""
    return sum(len(json.dumps(value)) for value in (entry.before, entry.after) if value)


def tree_of(value: Mapping[str, Any] | None, settings: Settings) -> Shown | None:
    """A value as `json.html` shows it; None where there is none."""
    return None if value is None else json_view.show(_node(value, settings))


def _node(value: Mapping[str, Any] | None, settings: Settings) -> Node:
    masked = list(settings.dashboard_masked_fields)
    if settings.dashboard_hide_payloads:
        masked += PAYLOADS
    text = json.dumps(value or {}, ensure_ascii=False)
    if _cut_holds(text, masked):
        masked.append(CUT)
    return json_view.parse(text, masked)


def _cut_holds(text: str, masked: Collection[str]) -> bool:
    """Whether the beginning of a value that was cut, which is text, may hold what is masked."""
    folded = text.lower()
    return f'"{CUT}"' in folded and any(name.lower() in folded for name in masked)


def _leaves(top: Node) -> dict[str, str]:
    found: dict[str, str] = {}
    stack = [(top, "")]
    while stack:
        node, path = stack.pop()
        if node.children and not _is_short_list(node):
            stack += (
                (child, f"{path}.{child.key}" if path else str(child.key))
                for child in node.children
            )
        elif path:
            found[path] = _words(node)
    return found


def _is_short_list(node: Node) -> bool:
    """Whether a list reads best in one line: of scopes, queues, ids."""
    return (
        node.kind == "array"
        and len(node.children) <= MAX_LINE_ITEMS
        and all(child.is_leaf for child in node.children)
    )


def _words(node: Node) -> str:
    match node.kind:
        case "masked":
            return MASK
        case "string":
            text = node.string
        case "object":
            text = "{}"
        case "array":
            text = ", ".join(_words(child) for child in node.children) or "none"
        case _:
            text = node.text
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"
