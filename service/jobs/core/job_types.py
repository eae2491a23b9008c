"""What is set for a job type, apart from the function that handles it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from re import fullmatch
from typing import Any, Final, TypeAlias

from pydantic import BaseModel

from service.errors import ConfigurationError
from service.jobs.core.backoff import Backoff
from service.jobs.core.encryption import Sealing
from service.jobs.core.job import NAME_PATTERN
from service.settings import Settings

ConcurrencyKey: TypeAlias = str | Callable[[Any], str | None]
"""How a concurrency key is made of a payload; see `core/concurrency_key.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTypePolicy:
    """How jobs of one type run; None means the service's default.

    Args:
        timeout_seconds: limit on one attempt.
        max_retries: retries after the first attempt, 0 to 1000.
        backoff: delays between attempts.
        payload_model: the pydantic model that checks payloads; any JSON where None.
        queue: the queue of jobs that name none.
        internal: whether clients of the API may not enqueue such jobs.
        concurrency_key: the key of jobs that name none: made of the payload (of its model's instance,
            if there is one), or a template of its fields, `customer:{payload.customer_id}`.
        max_running_per_key: how many jobs with one key may run at once, over all processes.
        encrypt: what is kept encrypted of payloads: True, all; else members, `card` or `customer.card`.
        capture_logging: whether what the handler logs by `logging` is kept with its job.
        redacted_fields: members of payloads and results, in lower case, whose values nobody is shown.
    """

    timeout_seconds: float | None = None
    max_retries: int | None = None
    backoff: Backoff | None = None
    payload_model: type[BaseModel] | None = None
    queue: str | None = None
    internal: bool = False
    concurrency_key: ConcurrencyKey | None = None
    max_running_per_key: int | None = None
    encrypt: Sealing | None = None
    capture_logging: bool | None = None
    redacted_fields: frozenset[str] = frozenset()

    def retries_of(self, asked: int | None, settings: Settings) -> int:
        """Retries after the first attempt: the job's own, else its type's, else the service's."""
        for retries in (asked, self.max_retries):
            if retries is not None:
                return retries
        return settings.default_max_retries

    def timeout_of(self, asked: float | None, settings: Settings) -> float:
        """The limit on one attempt: the job's own, else its type's, else the service's.

        A job made by plain SQL may ask for NaN or infinity, which limit nothing: they are ignored.
        """
        own = asked if asked is not None and 0 < asked < math.inf else None
        return own or self.timeout_seconds or settings.default_timeout_seconds

    def captures_logging(self, settings: Settings) -> bool:
        """Whether records of `logging` are kept: by its type's word, else the service's."""
        own = self.capture_logging
        return settings.job_log_capture if own is None else own

    def check(self, job_type: str) -> None:
        """Refuse values that would only fail once jobs of `job_type` run.

        Raises:
            ConfigurationError: the value is named, with what was expected.
        """
        for argument, value, kind in (
            ("timeout", self.timeout_seconds, (int, float)),
            ("max_retries", self.max_retries, (int,)),
            ("backoff", self.backoff, (Backoff,)),
            ("queue", self.queue, (str,)),
            ("max_running_per_key", self.max_running_per_key, (int,)),
            ("capture_logging", self.capture_logging, (bool,)),
        ):
            if value is not None and not isinstance(value, kind):
                expected = " or ".join(one.__name__ for one in kind)
                raise _refused(job_type, f"{argument} is {value!r}, expected {expected}")
        model: object = self.payload_model
        if model is not None and not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise _refused(job_type, f"payload_model is {model!r}, expected a pydantic BaseModel")
        if self.queue is not None and not fullmatch(NAME_PATTERN, self.queue):
            raise _refused(job_type, f"bad queue name {self.queue!r}")
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            timeout = f"timeout is {self.timeout_seconds!r}, expected seconds above 0"
            raise _refused(job_type, timeout)
        if self.max_running_per_key is not None and self.max_running_per_key < 1:
            limit = f"max_running_per_key is {self.max_running_per_key!r}, expected 1 or more"
            raise _refused(job_type, limit)
        rule = self.concurrency_key
        if rule is not None and not isinstance(rule, str) and not callable(rule):
            raise _refused(
                job_type, f"concurrency_key is {rule!r}, expected a function or a template"
            )
        if self.max_retries is not None and not 0 <= self.max_retries <= 1000:
            retries = f"max_retries is {self.max_retries!r}, expected 0 to 1000"
            raise _refused(job_type, retries)


DEFAULTS: Final = JobTypePolicy()
"""The policy of a job type that sets nothing."""

policies: Final[dict[str, JobTypePolicy]] = {}
"""The policies of the job types that this process knows; `handlers.registry` fills it."""

sealed_elsewhere: Final[dict[str, Sealing]] = {}
"""What handlers of other processes have encrypted, of the types that this one does not know."""


def encrypted_of(job_type: str) -> Sealing | None:
    """What is encrypted of every payload of a type."""
    policy = policies.get(job_type)
    return sealed_elsewhere.get(job_type) if policy is None else policy.encrypt


def _refused(job_type: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"Handler {job_type!r}: {problem}")
