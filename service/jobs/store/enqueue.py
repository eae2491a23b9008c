"""Insert jobs, and find the holders of keys that are taken."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import cache
from typing import Any, Final

from service.jobs.core.encoded_jobs import EncodedJobs
from service.jobs.core.fields import FIELDS, INPUTS, JobField
from service.jobs.core.holds import UNIQUE
from service.jobs.store.statement import Statement

Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""Runs a statement, given with its arguments, where the jobs are to be enqueued; returns its rows."""

_CHECKED: Final = 0
"""A lease token that no lease has: the row was checked here, and the table's trigger leaves it alone.
To check each of a million rows again would double what they cost PostgreSQL."""


_MADE: Final = "RETURNING id, created_at, next_run_at"


_KEYED: Final = f"""
ORDER BY r.unique_key NULLS FIRST, r.position
ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
{_MADE}, unique_key
"""
"""Sorted by key, so that two batches with the same keys never wait for each other in a circle."""


@cache
def _enqueue(
    answer: str = "", *, optional: tuple[str, ...] = (), held_for: str | None = None
) -> Statement:
    """Insert a batch; the named optional columns are left out where no job gives them.

    What is `held_for` something is due once that lets it go. Shorter arrays are filled up with nulls: a column of defaults travels as an empty one.
    """
    inputs = [one for one in INPUTS if not one.optional or one.name in optional]
    fields = [field for field in FIELDS if field.inputs and field.inputs[0] in inputs]
    arrays = ", ".join(f":{one.name}::{one.array_type}" for one in inputs)
    values = {field.name: _value(field) for field in fields} | {"lease_token": str(_CHECKED)}
    if held_for is not None:
        values |= {
            "held_for": f"'{held_for}'",
            "held_since": "clock_timestamp()",
            "held_due_at": values["next_run_at"],
            "next_run_at": "'infinity'",
        }
    return Statement(f"""
INSERT INTO finmind_jobs.jobs_live ({", ".join(values)})
SELECT {", ".join(values.values())}
FROM unnest({arrays})
  WITH ORDINALITY AS r({", ".join(one.name for one in inputs)}, position)
{answer}""")


def _value(field: JobField) -> str:
    if field.name == "next_run_at":
        later = "make_interval(secs => COALESCE(r.delay_seconds, 0))"
        return f"COALESCE(r.run_at, clock_timestamp() + {later})"
    value = f"r.{field.name}::jsonb" if field.type == "jsonb" else f"r.{field.name}"
    default = field.inputs[0].default
    return value if default is None else f"COALESCE({value}, {default!r})"


ENQUEUE_UNSEEN: Final = _enqueue()
"""Jobs without keys, in bulk: nothing comes back."""


ENQUEUE: Final = _enqueue(_MADE)
"""Jobs without keys; the answer comes in the order of the arrays."""


ENQUEUE_KEYED: Final = _enqueue(_KEYED)


_TURN: Final = ("unique_until_start",)
_WAITING: Final = _KEYED.replace("next_run_at", "held_due_at")


ENQUEUE_WAITING: Final = _enqueue(_WAITING, optional=_TURN, held_for=UNIQUE)
"""One job that is held until it is known whether another one with its key runs."""


ENQUEUE_FOR_CALLERS: Final = _enqueue(_MADE, optional=("enqueued_by",))
"""The same for callers of the REST API."""


ENQUEUE_LIMITED: Final = _enqueue(_MADE, optional=("concurrency_key",))
"""The same for jobs with concurrency keys."""


ENQUEUE_KEYED_FOR_CALLERS: Final = _enqueue(_KEYED, optional=("enqueued_by",))


ENQUEUE_WAITING_FOR_CALLERS: Final = _enqueue(
    _WAITING, optional=("enqueued_by", *_TURN), held_for=UNIQUE
)


KEY_HOLDERS: Final = Statement("""
SELECT id, created_at, next_run_at, unique_key FROM finmind_jobs.jobs_live WHERE unique_key = ANY (:keys::text[])
""")


async def insert(fetch: Fetch, jobs: EncodedJobs) -> Sequence[Any]:
    """Insert jobs without keys: id, created_at and next_run_at of each, in order."""
    return await _run(fetch, jobs, _MADE)


async def insert_unseen(fetch: Fetch, jobs: EncodedJobs) -> None:
    """Insert jobs without keys whose ids nobody asks for."""
    await _run(fetch, jobs, "")


async def insert_keyed(fetch: Fetch, jobs: EncodedJobs) -> Sequence[Any]:
    """Insert the jobs whose keys are free, those without keys first and in order.

    Returns:
        Rows of id, created_at, next_run_at and unique_key of those that were inserted.
    """
    return await _run(fetch, jobs, _KEYED)


async def insert_waiting(fetch: Fetch, jobs: EncodedJobs) -> Sequence[Any]:
    """The same, held until `unique_turns.start_next` lets them go."""
    return await _run(fetch, jobs, _WAITING, held_for=UNIQUE)


async def key_holders(fetch: Fetch, keys: Collection[str]) -> Sequence[Any]:
    """The live jobs that hold these keys: rows as `insert_keyed` returns them."""
    return await fetch(*KEY_HOLDERS.bind(keys=sorted(keys)))


async def _run(
    fetch: Fetch, jobs: EncodedJobs, answer: str, *, held_for: str | None = None
) -> Sequence[Any]:
    optional = tuple(one.name for one in INPUTS if one.optional and jobs.gives(one.name))
    statement = _enqueue(answer, optional=optional, held_for=held_for)
    return await fetch(*statement.bind(**arguments(jobs, optional=optional)))


def arguments(jobs: EncodedJobs, *, optional: Collection[str] = ()) -> dict[str, Sequence[Any]]:
    """The arrays of an ENQUEUE statement."""
    return {
        one.name: () if column.count(one.default) == len(column) else column
        for one in INPUTS
        if not one.optional or one.name in optional
        for column in (jobs.columns[one.name],)
    }
