"""Members of payloads and results that nobody is shown: the handler of their type names them.

Every way in which people see a payload comes here: the REST API, the dashboard, the audit log. Handlers
and the table have the values.
"""

from collections.abc import Collection
from typing import Any, Final

from service.jobs.core.job_types import DEFAULTS, policies

MASK: Final = "••••••"
"""What stands for a value that is not shown."""


def redacted_fields(job_type: str) -> frozenset[str]:
    """The names of such members of this type, in lower case; none if this process does not know the type."""
    return policies.get(job_type, DEFAULTS).redacted_fields


def redact_for(job_type: str, value: Any) -> Any:
    """A payload or result of such a job as it may be shown; the same object where nothing is hidden."""
    names = redacted_fields(job_type)
    return redact(value, names) if names else value


def redact_for_any(value: Any) -> Any:
    """A part of payloads of whatever type as it may be shown."""
    names: frozenset[str] = frozenset().union(*(one.redacted_fields for one in policies.values()))
    return redact(value, names) if names else value


def redact(value: Any, names: Collection[str]) -> Any:
    """A copy of JSON, at any depth without the values of members of these names (in lower case)."""
    # No function calls itself: JSON may be nested however deep.
    top: list[Any] = [value]
    places: list[tuple[Any, Any]] = [(top, 0)]
    while places:
        parent, place = places.pop()
        child = parent[place]
        if isinstance(child, dict):
            child = {
                name: MASK if isinstance(name, str) and name.lower() in names else one
                for name, one in child.items()
            }
            places += ((child, name) for name in child)
        elif isinstance(child, list):
            child = list(child)
            places += ((child, at) for at in range(len(child)))
        else:
            continue
        parent[place] = child
    return top[0]
