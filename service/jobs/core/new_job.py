"""A job to be enqueued, and the rules for its values."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from service.errors import InvalidInput
from service.jobs.core.backoff import Backoff
from service.jobs.core.callback import checked_callback
from service.jobs.core.encoding import dump_json
from service.jobs.core.encryption import Encrypt
from service.jobs.core.job import HIGHEST_PRIORITY, LOWEST_PRIORITY, MAX_ID, NAME_PATTERN, JobId
from service.jobs.core.unique_key import OnConflict, UniqueScope

DEFAULT_MAX_PAYLOAD_BYTES: Final = 262_144
"""What `Settings.max_payload_bytes` starts from; callers outside the service have no settings."""

MAX_DELAY_YEARS_SECONDS: Final = 10 * 366 * 86_400
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Times at which a job may be due. The driver takes the year 1 for -infinity and the end of 9999
for infinity: no delay can be reckoned from those, and every average would be ruined by them."""
_MAX_KNOWN_NAMES: Final = 10_000
_NAME: Final = re.compile(NAME_PATTERN)
_known_names: set[str] = set()


@dataclass(slots=True)
class NewJob:
    """A job to be enqueued. Not frozen: freezing makes creating one three times as slow.

    Args:
        job_type: the name of its handler.
        payload: JSON, or what pydantic turns into it, handed to the handler; `{}` where None.
        queue: where it waits; where None, the handler's own or `default`.
        priority: 0 (most urgent) to 9; 2 where None.
        max_retries: retries after the first attempt, 0 to 1000; the handler's where None.
        timeout_seconds: limit on one attempt; the handler's where None.
        run_at: when it is due, with a time zone; now where None.
        delay_seconds: in how many seconds it is due, by the database's clock; not with `run_at`.
        unique_key: at most one PENDING or RUNNING job has this key.
        backoff: delays between attempts; the handler's where None.
        concurrency_key: jobs with the same key share a limit on how many of them run at once; the
            handler's rule where None.
        on_conflict: what to do where another live job has the `unique_key`: `return` that job (also
            where None); `reject` this one; `replace` that one's payload, queue, priority, due time,
            retries and timeout by this one's while it is PENDING; `extend` its time until it is due;
            `keep_latest`: replace it while it waits, and wait for its end while it runs.
        unique_scope: `live`, the job has its key until it has ended (also where None), or
            `until_started`.
        unique_for_seconds: for how long from now the key is held, even after the job has ended.
        debounce_max_seconds: how long after its creation `extend` may make a job due; 3600 where None.
        after: ids of jobs that must have ended before this one may start.
        on_parent_failure: what becomes of it when one of those does not succeed: `cancel` (where
            None), `run` or `hold`.
        batch_id: the batch that it becomes a member of.
        unique_by: what the key is made of instead: `queue`, `payload.customer_id`; the type always.
        encrypt: what of the payload is kept encrypted, besides what its type says: True, all of it; else
            members, `card` or `customer.card`.
        callback: `{"url": "https://…"}`: an `http.request` job tells that URL of its end.
        result_ttl_seconds: how long after its end its result is kept; as long as the job where None.
    """

    job_type: str
    payload: Any = None
    queue: str | None = None
    priority: int | None = None
    max_retries: int | None = None
    timeout_seconds: float | None = None
    run_at: datetime | None = None
    delay_seconds: float | None = None
    unique_key: str | None = None
    backoff: Backoff | None = None
    concurrency_key: str | None = None
    on_conflict: OnConflict | None = None
    unique_scope: UniqueScope | None = None
    unique_for_seconds: float | None = None
    debounce_max_seconds: float | None = None
    after: Sequence[int] | None = None
    on_parent_failure: str | None = None
    batch_id: int | None = None
    unique_by: Sequence[str] | None = None
    encrypt: Encrypt | None = None
    callback: Mapping[str, Any] | None = None
    result_ttl_seconds: float | None = None

    @property
    def is_ruled(self) -> bool:
        """Whether more is done with it than inserting it: it takes a transaction of several statements."""
        return self.on_conflict not in {None, "return"} or self.unique_for_seconds is not None


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """What became of a `NewJob`: a row of its own, or the job that holds its `unique_key`."""

    id: JobId
    created: bool
    created_at: datetime
    next_run_at: datetime


def check_name(name: str, value: object) -> None:
    """Refuse what cannot be the name of a job type or a queue.

    Raises:
        InvalidInput: naming `name`, the value and the rule.
    """
    if value in _known_names:
        return
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise InvalidInput(
            f"{name} is {str(value)[:120]!r}: expected 1 to 100 letters, digits or _ . : - with a "
            "letter or digit first",
            field=name,
        )
    if len(_known_names) < _MAX_KNOWN_NAMES:
        _known_names.add(value)


def checked_moment(run_at: datetime) -> datetime:
    """The same instant in UTC, if a job may be due at it.

    Raises:
        InvalidInput: it has no time zone, or does not lie between the years 2000 and 2200.
    """
    if run_at.tzinfo is None:
        raise InvalidInput(
            f"run_at is {run_at.isoformat()} without a time zone: append Z or an offset",
            field="run_at",
        )
    if not EARLIEST <= run_at <= LATEST:
        raise InvalidInput(
            f"run_at is {run_at.isoformat()}: expected a time between the years 2000 and 2200",
            field="run_at",
        )
    return run_at.astimezone(UTC)


def _integer(name: str, low: int, high: int, *, low_words: str) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        # True is 1 to Python, and 1.5 would be cut to 1 on its way to the database.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidInput(f"{name} is {value!r}: expected {low_words} to {high}", field=name)
        return value

    return check


def _timeout(value: float) -> float:
    if not 0 < value <= 86_400:
        raise InvalidInput(
            f"timeout_seconds is {value!r}: expected above 0 and at most 86400",
            field="timeout_seconds",
        )
    return value


def _key(name: str) -> Callable[[Any], str]:
    def check(value: object) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= 255 or not value.isprintable():
            raise InvalidInput(
                f"{name} is {str(value)[:120]!r}: expected 1 to 255 printable characters",
                field=name,
            )
        return value

    return check


def _delay(value: float) -> float:
    if not 0 <= value <= MAX_DELAY_YEARS_SECONDS:
        raise InvalidInput(
            f"delay_seconds is {value!r}: expected 0 to {MAX_DELAY_YEARS_SECONDS} (ten years)",
            field="delay_seconds",
        )
    return value


def _result_ttl(value: float) -> float:
    if not 0 < value <= MAX_DELAY_YEARS_SECONDS:
        raise InvalidInput(
            f"result_ttl_seconds is {value!r}: expected above 0 and at most {MAX_DELAY_YEARS_SECONDS} "
            "(ten years)",
            field="result_ttl_seconds",
        )
    return value


def _backoff(value: Backoff) -> str:
    return dump_json(value.to_json(), what="backoff", max_bytes=1000)


RULES: Final[dict[str, Callable[[Any], Any]]] = {
    "priority": _integer(
        "priority",
        HIGHEST_PRIORITY,
        LOWEST_PRIORITY,
        low_words=f"{HIGHEST_PRIORITY} (most urgent)",
    ),
    "max_retries": _integer("max_retries", 0, 1000, low_words="0"),
    "timeout_seconds": _timeout,
    "unique_key": _key("unique_key"),
    "run_at": checked_moment,
    "delay_seconds": _delay,
    "backoff": _backoff,
    "concurrency_key": _key("concurrency_key"),
    "callback": checked_callback,
    "result_ttl_seconds": _result_ttl,
    "batch_id": _integer("batch_id", 1, MAX_ID, low_words="1"),
}
"""Each takes a value that was given, refuses it with `InvalidInput` or returns what is stored.

`encoded_jobs` has those of `job_type`, `queue` and `payload`, which need more than the value.
"""
