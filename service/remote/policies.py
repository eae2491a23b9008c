"""What holds for job types that have no handler here: their policies."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from service.errors import FinMindError
from service.jobs.core.backoff import Backoff
from service.jobs.core.job_types import DEFAULTS, JobTypePolicy, policies
from service.jobs.handlers.registry import HandlerSpec, Registry
from service.observability.logging import get_logger
from service.remote.model import Kinds

_log = get_logger(__name__)


def policy_of(job_type: str, registered: str | None) -> JobTypePolicy:
    """The policy of a type: what its worker registered, else what this process knows of it.

    Args:
        job_type: the type.
        registered: JSON text of `timeout_seconds`, `max_retries` and `backoff`, or None.
    """
    known = policies.get(job_type, DEFAULTS)
    if registered is None:
        return known
    try:
        told: dict[str, Any] = json.loads(registered)
        backoff = told.get("backoff")
        policy = replace(
            known,
            timeout_seconds=told.get("timeout_seconds") or known.timeout_seconds,
            max_retries=known.max_retries
            if told.get("max_retries") is None
            else told["max_retries"],
            backoff=known.backoff if backoff is None else Backoff.from_json(backoff),
        )
        policy.check(job_type)
    except (FinMindError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Written by plain SQL: the API checks what workers register.
        _log.warning("bad_policy", job_type=job_type, error=type(error).__name__)
        return known
    return policy


def registry_of(kinds: Kinds) -> Registry:
    """The types as a claim asks for them; nothing here runs their jobs."""
    found = Registry()
    for job_type in kinds.job_types:
        policy = policy_of(job_type, kinds.policy(job_type))
        found.add(
            HandlerSpec(
                job_type, _runs_elsewhere, is_async=True, takes_context=False, policy=policy
            )
        )
    return found


def policies_among(job_types: Iterable[str], registered: str | None) -> tuple[tuple[str, str], ...]:
    """What was registered for these types, of all that a worker registered (JSON text)."""
    if registered is None:
        return ()
    by_type = json.loads(registered)
    return tuple(
        (one, json.dumps(by_type[one], sort_keys=True))
        for one in sorted(job_types)
        if one in by_type
    )


async def _runs_elsewhere(_payload: object) -> None:
    raise AssertionError("a worker that claims over HTTP runs these")
