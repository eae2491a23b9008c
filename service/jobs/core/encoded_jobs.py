"""New jobs, checked and encoded for the ENQUEUE statements."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from operator import attrgetter
from typing import Any, Final

from service.errors import InvalidInput
from service.jobs.core.concurrency_key import check_readable, key_of
from service.jobs.core.encoding import MAX_STATEMENT_BYTES, bytes_bound, dump_json
from service.jobs.core.encryption import both, check_unread, check_unsealed, seal, sealing_of
from service.jobs.core.fields import INPUTS
from service.jobs.core.job import DEFAULT_QUEUE
from service.jobs.core.job_types import DEFAULTS, encrypted_of, policies
from service.jobs.core.lane import Lane
from service.jobs.core.new_job import RULES, NewJob, check_name
from service.jobs.core.unique_key import OPTIONS, KeyRule, uniqueness_of

Row = tuple[Any, ...]
"""The values of one job, in the order of `_NAMES`."""

_NAMES: Final = (
    "payload",
    "job_type",
    "queue",
    "enqueued_by",
    *RULES,
    "unique_until_start",
    "key_rule",
)
_PAYLOAD: Final = 0
_NOTHING: Final = (None,) * (len(RULES) + len(OPTIONS))
_read: Final = attrgetter(*RULES, *OPTIONS)
_UNIQUE_KEY: Final = [*RULES].index("unique_key")
_rules: Final = tuple(RULES.values())
_defaults: Final = tuple(
    next(given.default for given in INPUTS if given.name == name) for name in RULES
)


@dataclass(eq=False)
class EncodedJobs:
    """Jobs for one statement, whose values have been checked."""

    rows: list[Row]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def columns(self) -> dict[str, tuple[Any, ...]]:
        """The values of all jobs by the name of their `Input`, and the `KeyRule` of each."""
        return dict(zip(_NAMES, zip(*self.rows, strict=True), strict=True))

    def gives(self, name: str) -> bool:
        """Whether a job gives a value that is None unless it is given."""
        column = self.columns[name]
        return column.count(None) < len(column)

    def bytes_bound(self) -> int:
        """How many bytes storing them takes, at most, besides a few hundred for each."""
        return sum(bytes_bound(row[_PAYLOAD]) for row in self.rows)

    def lanes(self) -> set[Lane]:
        """The lanes with jobs that are due at once, by this process's clock."""
        names = ("queue", "priority", "run_at", "delay_seconds")
        queues, priorities, run_ats, delays = (self.columns[name] for name in names)
        if not any(run_ats) and not any(delays):
            return set(map(Lane, queues, priorities))
        now = datetime.now(UTC)
        return {
            Lane(queue, priority)
            for queue, priority, run_at, delay in zip(
                queues, priorities, run_ats, delays, strict=True
            )
            if not delay and (run_at is None or run_at <= now)
        }


def encode_jobs(
    jobs: Sequence[NewJob], *, max_payload_bytes: int, caller: str | None = None
) -> EncodedJobs:
    """Check and encode jobs for one statement.

    Raises:
        InvalidInput: a job breaks a rule; where there are several its position is named.
    """
    if len(jobs) == 1:
        return EncodedJobs([_encode(jobs[0], max_payload_bytes, caller)])
    return EncodedJobs(list(_encode_each(jobs, 0, max_payload_bytes, caller)))


def encode_in_parts(
    jobs: Iterable[NewJob], *, max_payload_bytes: int, first_position: int
) -> Iterator[EncodedJobs]:
    """The same for several statements, none much larger than MAX_STATEMENT_BYTES.

    Errors name positions counted from `first_position`.
    """
    rows: list[Row] = []
    size = 0
    for row in _encode_each(jobs, first_position, max_payload_bytes, None):
        rows.append(row)
        size += bytes_bound(row[_PAYLOAD])
        if size >= MAX_STATEMENT_BYTES:
            yield EncodedJobs(rows)
            rows, size = [], 0
    if rows:
        yield EncodedJobs(rows)


def _encode_each(
    jobs: Iterable[NewJob], first_position: int, max_payload_bytes: int, caller: str | None
) -> Iterator[Row]:
    for position, job in enumerate(jobs, first_position):
        try:
            yield _encode(job, max_payload_bytes, caller)
        except InvalidInput as error:
            error.detail = f"Job {position}: {error.detail}"
            error.args = (error.detail,)
            error.field = f"jobs.{position}.{error.field}"
            raise


def _encode(job: NewJob, max_payload_bytes: int, caller: str | None) -> Row:
    check_name("job_type", job.job_type)
    policy = policies.get(job.job_type, DEFAULTS)
    queue = job.queue
    if queue:
        check_name("queue", queue)
    else:
        queue = policy.queue or DEFAULT_QUEUE
    values: Sequence[Any] = _defaults
    until_start: str | None = None
    rule: KeyRule | None = None
    stored = _stored(job)
    if job.concurrency_key is None and policy.concurrency_key is not None:
        job = replace(job, concurrency_key=key_of(job.job_type, job.payload))
    if (given := _read(job)) != _NOTHING:  # as most jobs of a large batch
        values = list(_defaults)
        for at, value in enumerate(given[: len(_rules)]):
            if value is not None:
                values[at] = _rules[at](value)
        options = given[len(_rules) :]
        if any(option is not None for option in options):
            key, gives_up, rule = uniqueness_of(
                job.unique_key, dict(zip(OPTIONS, options, strict=True)),
                job_type=job.job_type, queue=queue,
                payload={} if job.payload is None else job.payload,
            )  # fmt: skip
            values[_UNIQUE_KEY] = key
            until_start = key if gives_up else None
            if job.after and rule is not None and rule.on_conflict not in {"return", "reject"}:
                raise InvalidInput(
                    f"on_conflict is {rule.on_conflict!r}, which changes a job that waits: give no "
                    "after with it",
                    field="on_conflict",
                )
        if job.run_at is not None and job.delay_seconds is not None:
            raise InvalidInput("run_at and delay_seconds are both given: give one", field="run_at")
    # Last, since it is the slowest.
    payload = (
        "{}" if stored is None else dump_json(stored, what="payload", max_bytes=max_payload_bytes)
    )
    return (payload, job.job_type, queue, caller, *values, until_start, rule)


def encrypts(job: NewJob) -> bool:
    """Whether the job, or its type, asks for encryption."""
    return bool(job.encrypt) or encrypted_of(job.job_type) is not None


def _stored(job: NewJob) -> Any:
    """The payload as it is stored: encrypted, as far as the job or its type says so.

    Raises:
        InvalidInput: a key is to be made of what is encrypted, or it cannot be encrypted.
    """
    check_unsealed(job.payload)
    of_type = encrypted_of(job.job_type)
    if job.encrypt is None and of_type is None:
        return job.payload
    sealing = both(sealing_of(job.encrypt), of_type)
    if sealing is None or job.payload is None:
        return job.payload
    check_unread(sealing, job.unique_by or (), by="unique_by")
    check_readable(job.job_type, sealing, given=job.concurrency_key)
    return seal(job.payload, sealing, job_type=job.job_type)
