"""`enqueue` in the caller's own transaction, on every library, as the role that may do nothing else."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from finmind_client import (
    Backoff,
    Conflict,
    InvalidInput,
    JobRef,
    NewJob,
    NotAllowed,
    NotInstalled,
)
from finmind_client.transaction import aenqueue, enqueue, enqueue_batch
from tests import databases
from tests.client.shops import ALIKE, SHOPS, Shop
from tests.running import ROOT

INVOICES = "SELECT array_agg(id ORDER BY id) FROM public.invoices"
WHEN = datetime(2030, 1, 31, 9, tzinfo=UTC)


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
async def shop_dsn(pg_dsn: str) -> AsyncIterator[str]:
    """Connects as an application with a table of its own that may enqueue, and nothing else."""
    async with databases.client_role(pg_dsn) as (role, dsn):
        await databases.execute(
            pg_dsn,
            "CREATE TABLE public.invoices (id integer PRIMARY KEY)",
            f"GRANT ALL ON public.invoices TO {role}",
        )
        yield dsn
        await databases.execute(pg_dsn, "DROP TABLE public.invoices")


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in SHOPS]
)
def shop(request: pytest.FixtureRequest, shop_dsn: str) -> Iterator[Shop]:
    with SHOPS[request.param](shop_dsn) as shop:
        yield shop


def two_and(shop: Shop, **options: Any) -> None:
    shop.insert(2)
    shop.enqueue("mail", **options)


def look(dsn: str, statement: str) -> Any:
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement).fetchall()


def test_a_job_is_there_if_and_when_the_callers_transaction_commits(
    shop: Shop, pg_dsn: str
) -> None:
    with suppress(ZeroDivisionError), shop.transaction():
        shop.insert(1)
        shop.enqueue("mail", {"n": 1})
        _ = 1 / 0
    with shop.transaction():
        shop.insert(2)
        job = shop.enqueue("mail", {"n": "é%:$1"}, queue="billing", priority=1, unique_key="two")
        again = shop.enqueue("mail", {"n": "é%:$1"}, unique_key="two")
        made = shop.enqueue_batch(
            [NewJob("mail", {"n": 3}), NewJob("mail", run_at=WHEN, backoff=Backoff(factor=2))]
        )
        assert look(pg_dsn, "SELECT count(*) FROM background_jobs") == [(0,)]
    assert job.is_new
    assert again == JobRef(job.id, is_new=False)
    assert (made.created, len(set(made.ids))) == (2, 2)
    assert look(pg_dsn, INVOICES) == [([2],)]

    rows = look(pg_dsn, "SELECT id, queue, payload FROM background_jobs ORDER BY id")
    assert rows == [
        (job.id, "billing", {"n": "é%:$1"}),
        (made.ids[0], "default", {"n": 3}),
        (made.ids[1], "default", {}),
    ]


def test_a_refusal_names_the_value_and_undoes_what_is_behind_a_savepoint(
    shop: Shop, pg_dsn: str
) -> None:
    with shop.transaction():
        shop.insert(1)
        with (
            pytest.raises(InvalidInput, match="priority is '11': expected 0") as wrong,
            shop.savepoint(),
        ):
            two_and(shop, priority=11)
        shop.enqueue("mail", unique_key="held")
        with pytest.raises(Conflict, match="on_conflict is 'reject'") as held, shop.savepoint():
            shop.enqueue("mail", unique_key="held", on_conflict="reject")
        with pytest.raises(InvalidInput, match="Job 1: ") as among, shop.savepoint():
            shop.enqueue_batch([NewJob("mail"), NewJob("mail", priority=11)])
        with pytest.raises(TypeError, match="not JSON serializable"):
            shop.enqueue("mail", {"when": WHEN})
    assert (wrong.value.status, wrong.value.problem["sqlstate"]) == (422, "22023")
    assert [one.field for one in wrong.value.errors] == ["body.priority"]
    assert [one.field for one in among.value.errors] == ["body.jobs.1.priority"]
    assert (held.value.status, held.value.type) == (409, "urn:finmind-jobs:problem:conflict")
    assert look(pg_dsn, INVOICES) == [([1],)]
    assert look(pg_dsn, "SELECT count(*) FROM background_jobs") == [(1,)]


def test_what_the_database_says_of_itself_stays_the_librarys_own(
    shop_dsn: str, pg_dsn: str
) -> None:
    with psycopg.connect(shop_dsn) as connection:
        for text, what in (("\0", "a NUL character"), ("\\\ud800", "a lone surrogate")):
            with pytest.raises(InvalidInput, match=what) as bad, connection.transaction():
                enqueue_batch(
                    connection, [NewJob("mail", {"n": r"\u0000"}), NewJob("mail", {"n": text})]
                )
            assert [one.field for one in bad.value.errors] == ["body.jobs.1.payload"]
        with pytest.raises(InvalidInput, match="PostgreSQL has not the key"):
            enqueue(connection, "mail", encrypt=["card"])  # type: ignore[call-arg]
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            enqueue(connection, "mail")
        connection.rollback()
        with pytest.raises(NotInstalled, match=r"no function nowhere\.enqueue_jobs"):
            enqueue(connection, "mail", schema="nowhere")
        connection.rollback()
        with pytest.raises(InvalidInput, match="an array of 0"):
            enqueue_batch(connection, [])
        with pytest.raises(ValueError, match="expected the name in DATABASE_SCHEMA"):
            enqueue(connection, "mail", schema='x"; DROP TABLE invoices')
    with psycopg.connect(pg_dsn) as connection:
        connection.execute("CREATE ROLE stranger; SET LOCAL ROLE stranger")
        with pytest.raises(NotAllowed, match="member of the role finmind_client"):
            enqueue(connection, "mail")
        connection.rollback()


def test_the_calls_of_the_pages_run(shop_dsn: str, pg_dsn: str) -> None:
    engine = sqlalchemy.create_engine(shop_dsn.replace("://", "+psycopg://", 1), poolclass=NullPool)
    names = {
        "engine": engine,
        "Invoice": Invoice,
        "psycopg": psycopg,
        "Session": Session,
        "shop_url": shop_dsn,
    }
    for page in ("client.md", "sql.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        (code,) = re.findall(
            r"```python\n(from finmind_client\.transaction.*?)```", text, re.DOTALL
        )
        exec(code, dict(names))
        assert look(pg_dsn, "DELETE FROM public.invoices RETURNING id") == [(7,)]
    found = look(pg_dsn, "SELECT queue, payload FROM background_jobs")
    assert found == [("billing", {"invoice": 7})] * 2


def test_what_is_no_connection_is_refused_with_what_would_do() -> None:
    with pytest.raises(TypeError, match=r"builtins\.str cannot enqueue: expected what your"):
        enqueue("postgresql://localhost", "mail")
    sqlite = sqlalchemy.create_engine("sqlite://").connect()
    with sqlite, pytest.raises(TypeError, match="The connection is to sqlite"):
        enqueue(sqlite, "mail")
    with pytest.raises(TypeError, match="is no connection of asyncio: call `enqueue"):
        asyncio.run(aenqueue(sqlite, "mail"))  # type: ignore[arg-type]


def test_no_library_is_imported_that_the_application_does_not_have() -> None:
    code = (
        "import sys, finmind_client.transaction as t\n"
        "try: t.enqueue(object(), 'mail')\n"
        "except TypeError: print(*{'sqlalchemy', 'psycopg', 'asyncpg', 'django', 'service'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert ran.stdout.strip() == ""
