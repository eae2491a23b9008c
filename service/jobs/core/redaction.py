"""Members of payloads and results that nobody is shown: the handler of their type names them.

Every way in which people see a payload comes here: the REST API, the dashboard, the audit log. Handlers
and the table have the values.
"""

from collections.abc import Collection
from typing import Any, Final

from service.jobs.core.encryption import CIPHERTEXT, both, is_sealed, preview, sealing_of
from service.jobs.core.job_types import DEFAULTS, encrypted_of, policies
from service.jobs.core.new_job import NewJob

_CIPHERTEXTS: Final = frozenset({CIPHERTEXT})
_HOLD_PAYLOADS: Final = ("payload", "payload_before")
"""Members of changes and of entries of histories."""
MASK: Final = "••••••"
"""What stands for a value that is not shown."""


def redacted_fields(job_type: str) -> frozenset[str]:
    """The names of such members of this type, in lower case, and that of ciphertexts in any type."""
    return policies.get(job_type, DEFAULTS).redacted_fields | _CIPHERTEXTS


def redact_for(job_type: str, value: Any) -> Any:
    """A payload or result of such a job as it may be shown; the same object where nothing is hidden."""
    names = policies.get(job_type, DEFAULTS).redacted_fields
    return redact(value, names | _CIPHERTEXTS) if names else _without_ciphertexts(value)


def shown_of_new(job: NewJob) -> Any:
    """The payload of a job that was just enqueued, as `redact_for` shows what is stored of it."""
    of_type = encrypted_of(job.job_type)
    if job.encrypt is None and of_type is None:
        return redact_for(job.job_type, job.payload)
    sealing = both(sealing_of(job.encrypt), of_type)
    return redact_for(job.job_type, preview(job.payload, sealing, ciphertext=MASK))


def redact_for_any(value: Any) -> Any:
    """A part of payloads of whatever type as it may be shown."""
    names = _CIPHERTEXTS.union(*(one.redacted_fields for one in policies.values()))
    return redact(value, names)


def _without_ciphertexts(value: Any) -> Any:
    """The same of a payload, of members that hold one, or of a history: without a walk through what they hold."""
    if isinstance(value, list):
        return [_without_ciphertexts(one) if isinstance(one, dict) else one for one in value]
    if not isinstance(value, dict):
        return value
    if CIPHERTEXT in value:
        value = {**value, CIPHERTEXT: MASK}
    held = {name: value[name] for name in _HOLD_PAYLOADS if is_sealed(value.get(name))}
    return value | {name: {**one, CIPHERTEXT: MASK} for name, one in held.items()}


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
