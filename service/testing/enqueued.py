"""What was enqueued in a test: find it, and say what is there where it is not."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.errors import InvalidInput
from service.jobs import BackgroundJob
from service.testing.keys import plain
from service.testing.own_rows import is_own

MAX_SHOWN: Final = 20
"""Jobs that a message lists."""
MAX_CHARS: Final = 300
"""Of one value in a message."""
CLOSE_SECONDS: Final = 1.0
"""How much the delay of a job may differ from what is asked for."""

ANY: Final[Any] = ...
"""Any payload."""

_OF_THIS_TEST: Final[ColumnElement[bool]] = literal_column(is_own("background_jobs"))

_PLAIN: Final = (
    "queue", "priority", "max_retries", "timeout_seconds", "concurrency_key", "batch_id", "callback",
    "result_ttl_seconds", "status",
)  # fmt: skip
OPTIONS: Final = frozenset({*_PLAIN, "run_at", "delay_seconds", "unique_key"})


class Enqueued:
    """The jobs of a test, oldest first, whatever became of them."""

    def __init__(
        self, jobs: Sequence[BackgroundJob], created_at: Callable[[BackgroundJob], datetime]
    ) -> None:
        """`created_at` gives when a job was enqueued by the clock that the test moves."""
        self._jobs = jobs
        self._created_at = created_at

    @classmethod
    async def read(
        cls, connection: AsyncConnection, created_at: Callable[[BackgroundJob], datetime]
    ) -> "Enqueued":
        """All that the transaction of the test wrote."""
        query = select(BackgroundJob).where(_OF_THIS_TEST).order_by(BackgroundJob.id)
        async with AsyncSession(connection, expire_on_commit=False) as session:
            return cls((await session.scalars(query)).all(), created_at)

    def find(
        self, job_type: str | None, payload: Any, options: Mapping[str, Any]
    ) -> list[BackgroundJob]:
        """Those of that type, with that in their payload, and with these options.

        Raises:
            InvalidInput: there is no such option.
        """
        if unknown := sorted(options.keys() - OPTIONS):
            raise InvalidInput(
                f"{unknown[0]} is not an option of a job that can be looked for: expected one of "
                f"{', '.join(sorted(OPTIONS))}; members of its payload go into payload={{…}}",
                field=unknown[0],
            )
        return [
            job
            for job in self._jobs
            if (job_type is None or job.job_type == job_type)
            and (payload is ANY or holds(_payload_of(job), payload))
            and all(self._has(job, name, wanted) for name, wanted in options.items())
        ]

    def expect(
        self, job_type: str, payload: Any, options: Mapping[str, Any], *, count: int | None
    ) -> BackgroundJob:
        """The newest of them.

        Raises:
            AssertionError: there is none, or another number than `count`.
            InvalidInput: there is no such option, or `count` is below 1.
        """
        __tracebackhide__ = True
        if count is not None and count < 1:
            raise InvalidInput(
                f"assert_enqueued got count={count}, expected 1 or more; assert_not_enqueued asserts that there is none",
                field="count",
            )
        found = self.find(job_type, payload, options)
        if found and count in {None, len(found)}:
            return found[-1]
        wanted = _words(job_type, payload, options)
        number = "no" if not found else str(len(found))
        expected = "" if count is None else f", expected {count}"
        raise AssertionError(
            f"{number} job {wanted} was enqueued{expected}. {self._list(job_type, payload, options)}"
        )

    def expect_none(self, job_type: str | None, payload: Any, options: Mapping[str, Any]) -> None:
        """Assert that there is none.

        Raises:
            AssertionError: there is one.
        """
        __tracebackhide__ = True
        if found := self.find(job_type, payload, options):
            wanted = _words(job_type, payload, options)
            lines = "".join(f"\n  {self._line(job, options)}" for job in found[:MAX_SHOWN])
            raise AssertionError(
                f"expected no job {wanted}, and {len(found)} were enqueued:{lines}"
            )

    # -- in words -----------------------------------------------------------------------------

    def _list(self, job_type: str, payload: Any, options: Mapping[str, Any]) -> str:
        if not self._jobs:
            return (
                "Nothing was enqueued in this test, as far as its transaction shows: is the session of the application "
                "on the connection of the test?"
            )
        # Those of the type last, where the eye is: the newest of all are shown.
        first = sorted(self._jobs, key=lambda job: job.job_type == job_type)[-MAX_SHOWN:]
        left = len(self._jobs) - len(first)
        more = f" (the {left} others are left out)" if left else ""
        lines = "".join(
            f"\n  {self._line(job, options)}{self._why(job, job_type, payload, options)}"
            for job in first
        )
        return f"These were{more}:{lines}"

    def _line(self, job: BackgroundJob, options: Mapping[str, Any]) -> str:
        shown = {"queue": job.queue, "status": job.status} | {
            name: self._value(job, name) for name in options
        }
        words = ", ".join(f"{name}={_short(value)}" for name, value in shown.items())
        return f"{job.id} {job.job_type} {_short(_payload_of(job))} {words}"

    def _why(
        self, job: BackgroundJob, job_type: str, payload: Any, options: Mapping[str, Any]
    ) -> str:
        """How one of the type differs; nothing for those of other types."""
        if job.job_type != job_type:
            return ""
        different = [] if payload is ANY else differences(_payload_of(job), payload)
        different += [name for name in options if not self._has(job, name, options[name])]
        return f"   <- differs in {', '.join(different)}" if different else ""

    def _has(self, job: BackgroundJob, name: str, wanted: Any) -> bool:
        value = self._value(job, name)
        if name == "delay_seconds" and isinstance(wanted, int | float):
            return bool(abs(value - wanted) <= CLOSE_SECONDS)
        return bool(value == wanted)

    def _value(self, job: BackgroundJob, name: str) -> Any:
        match name:
            case "run_at":
                return job.due_at
            case "delay_seconds":
                return round((job.due_at - self._created_at(job)).total_seconds(), 2)
            case "unique_key":
                return job.own_key
        return getattr(job, name)


def _payload_of(job: BackgroundJob) -> Any:
    return plain(job.payload, job_type=job.job_type)


def holds(value: Any, wanted: Any) -> bool:
    """Whether a value is what is wanted: of an object, and the objects in it, some members are enough."""
    return not differences(value, wanted)


def differences(value: Any, wanted: Any, path: str = "payload") -> list[str]:
    """Where they differ, as paths: `payload.customer.id`."""
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        return [
            found
            for name, member in wanted.items()
            for found in (
                differences(value[name], member, f"{path}.{name}")
                if name in value
                else [f"{path}.{name} (missing)"]
            )
        ]
    return [] if wanted == value else [path]


def _words(job_type: str | None, payload: Any, options: Mapping[str, Any]) -> str:
    words = [job_type or "of any type"]
    words += [] if payload is ANY else [f"with {_short(payload)}"]
    words += [f"{name}={_short(value)}" for name, value in options.items()]
    return " ".join(words)


def _short(value: Any) -> str:
    try:
        words = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        words = str(value) if isinstance(value, datetime) else repr(value)
    return words if len(words) <= MAX_CHARS else f"{words[: MAX_CHARS - 1]}…"
