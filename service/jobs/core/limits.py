"""How often and how long a job may run: what it asked for, else its handler, else the service."""

import math

from service.jobs.handlers.registry import HandlerSpec
from service.settings import Settings


def max_retries(asked: int | None, spec: HandlerSpec | None, settings: Settings) -> int:
    """Retries after the first attempt: the job's own, else its type's, else the service's."""
    for retries in (asked, spec.max_retries if spec else None):
        if retries is not None:
            return retries
    return settings.default_max_retries


def timeout_seconds(asked: float | None, spec: HandlerSpec | None, settings: Settings) -> float:
    """The bound on one attempt: the job's own, else its type's, else the service's.

    NaN or infinity, by plain SQL, would be no bound at all: they count as nothing asked for.
    """
    own = asked if asked is not None and 0 < asked < math.inf else None
    return own or (spec.timeout_seconds if spec else None) or settings.default_timeout_seconds
