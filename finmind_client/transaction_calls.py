"""The statement that enqueues, and the reading of what PostgreSQL answers, without I/O."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from finmind_client.errors import FinMindError, NotInstalled, error_of
from finmind_client.models import Enqueued, JobRef, NewJob

Rows = Sequence[Sequence[Any]]
"""`id` and `created` of each job, in the order given."""

_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)
_PROBLEMS: Final[Mapping[int, tuple[str, str]]] = {
    403: ("not-allowed", "Not allowed"),
    409: ("conflict", "Conflict"),
    422: ("invalid-input", "Invalid input"),
}
"""The names that REST has for them."""
_REFUSALS: Final[Mapping[str, int]] = {
    "22023": 422,
    "23505": 409,
    "40001": 409,
    "42501": 403,
    "55000": 409,
}
"""What the function raises itself, and the status of REST (docs/sql.md)."""
_UNREADABLE: Final = ("22", "54")
"""Classes of errors for a value that PostgreSQL cannot take in: a NUL character, JSON of 300 MB."""
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MISSING: Final = frozenset({"3F000", "42883"})
_FORBIDDEN: Final = "42501"


@dataclass(frozen=True, slots=True)
class EnqueueBySql:
    """One call of `enqueue_jobs`, which does what `POST /jobs/batch` does."""

    jobs: str
    """A JSON array."""
    schema: str
    alone: bool
    """Whether it is one job, so that no message has its position."""

    @classmethod
    def of(cls, jobs: Sequence[NewJob], *, schema: str, alone: bool = False) -> Self:
        """The call that enqueues these.

        Raises:
            TypeError, ValueError: a payload is no JSON, a `run_at` has no time zone, or the schema no such name.
        """
        if not _SCHEMA.fullmatch(schema):
            raise ValueError(
                f"schema is {schema!r}: expected the name in DATABASE_SCHEMA of the service: lower-case"
                " letters, digits and _"
            )
        return cls(json.dumps([job.body() for job in jobs], allow_nan=False), schema, alone)

    def statement(self, place: str) -> str:
        """Its SQL; `place` is how a library writes the one parameter, which is text."""
        # As text, because an application may have a codec of its own for jsonb.
        return f'SELECT id, created FROM "{self.schema}".enqueue_jobs(CAST(CAST({place} AS text) AS jsonb))'  # noqa: S608

    def read(self, rows: Rows) -> Enqueued:
        """What became of the jobs."""
        return Enqueued(tuple(row[0] for row in rows), sum(row[1] for row in rows))

    def read_only_one(self, rows: Rows) -> JobRef:
        """What became of the one job."""
        return JobRef(rows[0][0], rows[0][1])

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turn what the function refuses into errors of this package; the library's own error is the cause."""
        try:
            yield
        except Exception as error:
            refusal = self._refusal(error)
            if refusal is None:
                raise
            raise refusal from error

    def _refusal(self, error: Exception) -> FinMindError | None:
        said = _Said.of(error)
        if said is None:
            return None
        if said.sqlstate in _MISSING:
            return NotInstalled(
                f"This database has no function {self.schema}.enqueue_jobs: {said.message}. Connect to the"
                " database of the service, run `finmind-jobs migrate`, or name its DATABASE_SCHEMA with"
                " `schema`"
            )
        if said.by_function and said.sqlstate in _REFUSALS:
            return self._problem(_REFUSALS[said.sqlstate], said)
        if said.sqlstate.startswith(_UNREADABLE):
            return self._problem(422, _with_field(said, self.jobs))
        if said.sqlstate == _FORBIDDEN:
            hint = "make it a member of the role finmind_client (docs/sql.md)"
            return self._problem(403, said, more=f": the database role may not enqueue; {hint}")
        return None

    def _problem(self, status: int, said: "_Said", *, more: str = "") -> FinMindError:
        slug, title = _PROBLEMS[status]
        message, field = said.message, said.field
        if self.alone:
            message, field = message.removeprefix("Job 0: "), field.removeprefix("jobs.0.")
        refused = {"field": f"body.{field}", "message": message, "type": "sql"}
        problem = {
            "type": f"urn:finmind-jobs:problem:{slug}",
            "title": title,
            "status": status,
            "detail": f"{message}{more}",
            "sqlstate": said.sqlstate,
            "errors": [refused] if status == 422 and field else [],
        }
        return error_of(status, problem, retry_after=None)


@dataclass(frozen=True, slots=True)
class _Said:
    """What PostgreSQL said of an error, whichever library brought it."""

    sqlstate: str
    message: str
    field: str
    """Of a job, as the function names it: `jobs.3.priority`; else empty."""
    by_function: bool
    """Whether the function raised it: nothing else in PostgreSQL names a column without its table."""

    @classmethod
    def of(cls, error: BaseException | None) -> Self | None:
        """Look for it in an error and in what that was made of."""
        while error is not None:
            said: Any = getattr(error, "diag", error)  # of psycopg, or asyncpg's error itself
            state = getattr(said, "sqlstate", None)
            message = getattr(said, "message_primary", None) or getattr(said, "message", None)
            if isinstance(state, str) and isinstance(message, str):
                detail = getattr(said, "message_detail", None) or getattr(said, "detail", None)
                message = f"{message}: {detail}" if detail else message
                field: str | None = getattr(said, "column_name", None)
                by_function = field is not None and getattr(said, "table_name", None) is None
                return cls(state, message, field or "", by_function)
            error = getattr(error, "orig", None) or error.__cause__
        return None


def _with_field(said: _Said, jobs: str) -> _Said:
    """The error with the field whose text PostgreSQL cannot store: it names none itself."""
    for position, job in enumerate(json.loads(jobs)):
        for name, value in job.items():
            text = json.dumps(value, ensure_ascii=False)
            if _NUL.search(text):
                what = "a NUL character (\\u0000)"
            elif _SURROGATE.search(text):
                what = "a lone surrogate, which is no character"
            else:
                continue
            message = f"Job {position}: {name} holds {what}: PostgreSQL cannot store it"
            return replace(said, field=f"jobs.{position}.{name}", message=message)
    return replace(said, message=f"PostgreSQL cannot store a value: {said.message}")
