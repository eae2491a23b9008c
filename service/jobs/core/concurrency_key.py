"""The concurrency key of a job that names none: made of its payload, by the rule of its type."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from service.errors import ConfigurationError, InvalidInput
from service.jobs.core.job_types import DEFAULTS, JobTypePolicy, policies
from service.jobs.core.new_job import RULES

_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_PATH: Final = re.compile(r"payload(?:\.[A-Za-z_][A-Za-z0-9_]*)+")


def key_of(job_type: str, payload: Any) -> str | None:
    """The key of such a job; None where its type has no rule, or this process does not know the type.

    A payload that the type's model refuses gives no key: its handler fails it, whatever the key.

    Raises:
        InvalidInput: the rule can make no key of this payload.
    """
    policy = policies.get(job_type, DEFAULTS)
    rule = policy.concurrency_key
    if rule is None:
        return None
    if isinstance(rule, str):
        return _FIELD.sub(lambda match: _text_at(match[1], payload), rule)
    try:
        return rule(_as_handed_over(policy, payload))
    except ValidationError:
        return None
    except Exception as error:
        raise InvalidInput(
            f"The concurrency key of a {job_type} job cannot be made of this payload:"
            f" {type(error).__name__}: {str(error)[:200]}",
            field="payload",
        ) from None


def key_after_edit(job_type: str, key: str | None, *, before: Any, after: Any) -> str | None:
    """The key that a job gets with another payload; None: it keeps its own; empty: it has none any more.

    A key that the rule of its type made of the payload before is made anew. One that was given stays.

    Raises:
        InvalidInput: the rule can make no key of the new payload, or none that a job may have.
    """
    if key is None or policies.get(job_type, DEFAULTS).concurrency_key is None:
        return None
    try:
        if key_of(job_type, before) != key:
            return None
    except InvalidInput:
        return None
    made = key_of(job_type, after)
    if made == key:
        return None
    return "" if made is None else RULES["concurrency_key"](made)


def check_template(job_type: str, template: str) -> None:
    """Refuse a template that names anything but fields of the payload.

    Raises:
        ConfigurationError: naming what was found.
    """
    for name in _FIELD.findall(template):
        if not _PATH.fullmatch(name):
            raise ConfigurationError(
                f"Handler {job_type!r}: concurrency_key names {{{name}}}, expected a field of the"
                " payload: customer:{payload.customer_id}"
            )


def _as_handed_over(policy: JobTypePolicy, payload: Any) -> Any:
    model = policy.payload_model
    return payload if model is None or isinstance(payload, model) else model.model_validate(payload)


def _text_at(path: str, payload: Any) -> str:
    value = payload
    for name in path.split(".")[1:]:
        try:
            value = value[name] if isinstance(value, Mapping) else getattr(value, name)
        except (KeyError, AttributeError):
            value = None
        if value is None:
            break
    if value is None or isinstance(value, Mapping | list):
        raise InvalidInput(
            f"{path} is {'missing' if value is None else 'not a single value'}: the concurrency key of"
            " this job type is made of it",
            field="payload",
        )
    return str(value)
