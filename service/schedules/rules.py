"""What a schedule may be: the rules that REST, Python and decorators share."""

from typing import Any, Final

from service.errors import InvalidInput, PayloadError
from service.jobs.core.concurrency_key import key_of
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.job import DEFAULT_QUEUE
from service.jobs.core.job_types import DEFAULTS, encrypted_of, policies
from service.jobs.core.new_job import EARLIEST, check_name
from service.schedules.model import Definition
from service.schedules.runs import new_job
from service.schedules.timing import check_jitter

MAX_CATCH_UP_SECONDS: Final = 31 * 86_400.0
MAX_PAUSE_AFTER_FAILURES: Final = 1000
MAX_PAYLOAD_BYTES: Final = 16_384
"""Of a schedule, with what each run gets: hundreds of them are read at once."""


def check(name: str, definition: Definition) -> None:
    """Refuse a schedule that could not run as it says.

    Raises:
        InvalidInput: a value breaks a rule; the field, the value and the rule are named.
        PayloadError: the payload is not storable JSON, or too long.
    """
    check_name("name", name)
    definition.timing.check()
    check_jitter(definition.timing, definition.jitter_seconds)
    if not 0 <= definition.catch_up_seconds <= MAX_CATCH_UP_SECONDS:
        raise InvalidInput(
            f"catch_up_seconds is {definition.catch_up_seconds!r}: expected 0 to "
            f"{MAX_CATCH_UP_SECONDS:.0f} (31 days)",
            field="catch_up_seconds",
        )
    limit = definition.pause_after_failures
    if limit is not None and not 1 <= limit <= MAX_PAUSE_AFTER_FAILURES:
        raise InvalidInput(
            f"pause_after_failures is {limit!r}: expected 1 to {MAX_PAUSE_AFTER_FAILURES}, or null",
            field="pause_after_failures",
        )
    if not isinstance(definition.payload, dict):
        raise InvalidInput("payload is no object: a schedule's must be one", field="payload")
    if definition.tick_member is not None:
        check_name("tick_member", definition.tick_member)
        if definition.tick_member in definition.payload:
            raise InvalidInput(
                f"payload has a member {definition.tick_member!r}, which tick_member names as well: "
                "every run gets its tick there",
                field="payload",
            )
    _check_plain(definition)
    job = new_job(name, definition, planned_at=EARLIEST)
    try:
        encode_jobs([job], max_payload_bytes=MAX_PAYLOAD_BYTES)
    except PayloadError as error:
        # The setting that a job's payload is bound by does not move this bound.
        words = error.detail.replace("(MAX_PAYLOAD_BYTES)", "in a schedule")
        raise PayloadError(words, field="payload") from None


def queue_of(job_type: str) -> str:
    """The queue of jobs that name none, as this process knows their handler."""
    return policies.get(job_type, DEFAULTS).queue or DEFAULT_QUEUE


def concurrency_key_of(job_type: str, payload: object) -> str | None:
    """The key of jobs that name none, by the rule of their handler."""
    return key_of(job_type, payload)


def _check_plain(definition: Definition) -> None:
    """Refuse what its type has encrypted in jobs: a schedule keeps its payload as it is, for all its jobs."""
    sealing, payload = encrypted_of(definition.job_type), definition.payload
    held = (
        []
        if sealing is None or sealing is True
        else [one for one in sealing if _holds(payload, one)]
    )
    if (sealing is True and payload) or held:
        raise InvalidInput(
            f"payload holds {', '.join(held) or 'values'}, which jobs of type {definition.job_type} keep "
            "encrypted, and a schedule cannot: have the handler look it up",
            field="payload",
        )


def _holds(payload: Any, path: str) -> bool:
    for name in path.split("."):
        if not isinstance(payload, dict) or name not in payload:
            return False
        payload = payload[name]
    return True
