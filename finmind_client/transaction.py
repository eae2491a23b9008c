"""Enqueue in a transaction of your own: the job exists if and when that commits.

    with Session(engine) as session, session.begin():
        session.add(Invoice(id=7))
        enqueue(session, "send_invoice", {"invoice": 7}, queue="billing")

`enqueue` and `enqueue_batch` take connections that block, `aenqueue` and `aenqueue_batch` those of asyncio:

| library | blocking | asyncio |
|---|---|---|
| SQLAlchemy 2, on psycopg or asyncpg | `Session`, `scoped_session`, `Connection` | `AsyncSession`, `AsyncConnection` |
| psycopg 3 | `Connection` | `AsyncConnection` |
| asyncpg | – | `Connection`, also of a pool |
| Django | `django.db.connection`, `connections["…"]` | – |

None of them is imported or needed until you pass one. The service is not called: PostgreSQL does it, by the
function `enqueue_jobs` (docs/sql.md), and wakes workers at the commit. A connection without an open transaction
(autocommit) enqueues at once.

A refusal ends the transaction, as any error of PostgreSQL does: whoever catches one and goes on commits nothing, and is
not told by PostgreSQL. To go on after one, have a savepoint around the call: `session.begin_nested()`,
`connection.transaction()`, `transaction.atomic()`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Unpack

from finmind_client.models import Enqueued, JobRef, NewJob, SqlOptions
from finmind_client.transaction_calls import EnqueueBySql, Rows
from finmind_client.transaction_drivers import asyncio_driver, blocking_driver

if TYPE_CHECKING:
    from finmind_client.transaction_drivers import AsyncioConnection, BlockingConnection

__all__ = ["aenqueue", "aenqueue_batch", "enqueue", "enqueue_batch"]

DEFAULT_SCHEMA: Final = "finmind_jobs"
"""Where the service keeps its tables; its setting `DATABASE_SCHEMA` names another."""


def enqueue(
    connection: "BlockingConnection",
    job_type: str,
    payload: Mapping[str, Any] | None = None,
    *,
    schema: str = DEFAULT_SCHEMA,
    **options: Unpack[SqlOptions],
) -> JobRef:
    """Enqueue a job in the transaction of this connection.

    Args:
        connection: of SQLAlchemy, psycopg or Django; what is written on it commits together.
        job_type: the name of its handler.
        payload: a JSON object.
        schema: of the service's tables.
        options: the other members of `NewJob`, by name, but those that are for REST alone.

    Raises:
        InvalidInput: a value breaks a rule; the error names it.
        Conflict: another job has its `unique_key`, or its batch is closed.
        NotAllowed: the database role may not enqueue, or the type belongs to the service.
        NotInstalled: the database has no such function in this schema.
        TypeError: this is no such connection, or the payload is no JSON; nothing has been sent.
        ValueError: `run_at` has no time zone, or a number is NaN; nothing has been sent.

    What PostgreSQL says beside that (a serialization failure, a deadlock, a timeout) stays the exception of your
    library, so that what repeats your transactions sees it.
    """
    job = NewJob(job_type, {} if payload is None else payload, **options)
    call = EnqueueBySql.of([job], schema=schema, alone=True)
    return call.read_only_one(_run(connection, call))


def enqueue_batch(
    connection: "BlockingConnection", jobs: Sequence[NewJob], *, schema: str = DEFAULT_SCHEMA
) -> Enqueued:
    """Enqueue up to 10,000 jobs in the transaction of this connection: all, or none.

    Raises as `enqueue` does; the path of a refused value begins with the position of its job.
    """
    call = EnqueueBySql.of(jobs, schema=schema)
    return call.read(_run(connection, call))


async def aenqueue(
    connection: "AsyncioConnection",
    job_type: str,
    payload: Mapping[str, Any] | None = None,
    *,
    schema: str = DEFAULT_SCHEMA,
    **options: Unpack[SqlOptions],
) -> JobRef:
    """Enqueue a job in the transaction of a connection of SQLAlchemy, psycopg or asyncpg: `enqueue` for asyncio."""
    job = NewJob(job_type, {} if payload is None else payload, **options)
    call = EnqueueBySql.of([job], schema=schema, alone=True)
    return call.read_only_one(await _arun(connection, call))


async def aenqueue_batch(
    connection: "AsyncioConnection", jobs: Sequence[NewJob], *, schema: str = DEFAULT_SCHEMA
) -> Enqueued:
    """Enqueue up to 10,000 jobs, all or none: `enqueue_batch` for asyncio."""
    call = EnqueueBySql.of(jobs, schema=schema)
    return call.read(await _arun(connection, call))


def _run(connection: "BlockingConnection", call: EnqueueBySql) -> Rows:
    run = blocking_driver(connection)
    with call.refusals():
        return run(connection, call)


async def _arun(connection: "AsyncioConnection", call: EnqueueBySql) -> Rows:
    run = asyncio_driver(connection)
    with call.refusals():
        return await run(connection, call)
