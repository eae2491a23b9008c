"""A `unique_key` made of a job's type, its queue and fields of its payload."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from service.errors import InvalidInput
from service.jobs.core.encoding import dump_json, load_json

MAX_PARTS: Final = 20
MAX_KEY_CHARS: Final = 255
"""Of any key; a longer one that is made here is replaced by its digest."""

_PATH: Final = re.compile(r"payload(?:\.[^.]{1,100}){1,10}")
_MAX_VALUE_BYTES: Final = 65_536


def key_by(parts: Any, *, job_type: str, queue: str, payload: Any) -> str:
    """The key of a job that is the only one of its type with these parts.

    The same values make the same key: however a number is spelt, in whatever order an object has its
    members. It begins with `by:`, and is a digest where it would exceed 255 characters.

    Args:
        parts: `payload.customer_id` (any depth), `queue`; `job_type`, which counts in any case.
        job_type: of the job.
        queue: of the job.
        payload: of the job; a model or dataclass counts as the JSON that it is stored as.

    Raises:
        InvalidInput: a part is unknown, or the payload lacks the field.
    """
    _check(parts)
    values: dict[str, Any] = {"job_type": job_type}
    json_payload: Any = None
    for part in parts:
        if part == "queue":
            values[part] = queue
        elif part != "job_type":
            if json_payload is None:
                text = dump_json(payload, what="payload", max_bytes=2**31)
                json_payload = load_json(text)
            values[part] = _value_at(part, json_payload)
    made = dict(sorted(values.items()))
    text = dump_json(made, what="unique_by", max_bytes=2**31)
    if len(key := f"by:{text}") <= MAX_KEY_CHARS and key.isprintable():
        return key
    return f"by:sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _check(parts: Any) -> None:
    if (
        not isinstance(parts, Sequence)
        or isinstance(parts, str)
        or not 1 <= len(parts) <= MAX_PARTS
    ):
        raise _refused(
            parts, f"expected a list of 1 to {MAX_PARTS} parts, such as payload.customer_id"
        )
    for part in parts:
        if not isinstance(part, str) or not (
            part in {"job_type", "queue"} or _PATH.fullmatch(part)
        ):
            raise _refused(
                part, "expected job_type, queue, or a field of the payload: payload.customer_id"
            )
    if len(set(parts)) < len(parts):
        raise _refused(parts, "a part is named twice")


def _value_at(path: str, payload: Any) -> Any:
    value = payload
    for name in path.split(".")[1:]:
        if not isinstance(value, Mapping) or name not in value:
            raise _refused(
                path, "the payload has no such field: send it, null at least, or leave the part out"
            )
        value = value[name]
    if isinstance(value, str | dict | list) and len(str(value)) > _MAX_VALUE_BYTES:
        raise _refused(path, f"its value has more than {_MAX_VALUE_BYTES} characters")
    return _canonical(value)


def _canonical(value: Any) -> Any:
    """1.0 is 1 to PostgreSQL, and an object has no order."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _canonical(value[name]) for name in sorted(value)}
        case list():
            return [_canonical(one) for one in value]
        case _:
            return value


def _refused(value: object, rule: str) -> InvalidInput:
    return InvalidInput(f"unique_by names {str(value)[:120]!r}: {rule}", field="unique_by")
