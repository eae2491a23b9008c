"""The concurrency key of a job that names none: made of its payload, by the rule of its type."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from service.errors import ConfigurationError, InvalidInput
from service.jobs.core.encryption import Sealing, check_unread
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


def fields_of(template: str) -> list[str]:
    """The fields of the payload that a template names."""
    return _FIELD.findall(template)


def check_readable(job_type: str, sealing: Sealing, *, given: str | None) -> None:
    """Refuse to make the concurrency key of a job of what is encrypted of its payload.

    Args:
        job_type: of the job.
        sealing: what is encrypted.
        given: the key that it names; the rule of its type counts where None.

    Raises:
        InvalidInput: the rule reads an encrypted member, or is a function, which may.
    """
    rule = policies.get(job_type, DEFAULTS).concurrency_key
    if given is not None or rule is None:
        return
    if isinstance(rule, str):
        check_unread(sealing, fields_of(rule), by="concurrency_key")
        return
    raise InvalidInput(
        f"concurrency_key is missing: for {job_type} jobs a function makes it of the whole payload, part of which"
        " is encrypted: give a key, or make it by a template of other members",
        field="concurrency_key",
    )


def check_template(job_type: str, template: str) -> None:
    """Refuse a template that names anything but fields of the payload.

    Raises:
        ConfigurationError: naming what was found.
    """
    for name in fields_of(template):
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
