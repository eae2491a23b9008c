"""Least privilege in the database: what each role may do, on the real one."""

import itertools
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from service.app import create_app
from service.db.engine import Database
from service.db.migrate import downgrade, upgrade
from service.db.roles import (
    CLIENT_FUNCTIONS,
    FUNCTIONS,
    READ_ONLY,
    RUNTIME,
    SEQUENCES,
    RoleNames,
    new_grants_sql,
    roles_sql,
)
from service.errors import ConfigurationError, KeyHeld
from service.jobs import NewJob, enqueue, enqueue_many
from service.settings import DEFAULT_SCHEMA, Settings
from tests import databases
from tests.api.conftest import Auth
from tests.reminders.conftest import eventually

PASSWORD = "of-the-tests"
_numbers = itertools.count()


@dataclass(frozen=True)
class Roles:
    """An application's database, migrated, with the five roles, and how to connect as each."""

    names: RoleNames
    admin: str
    migrator: str
    runtime: str
    readonly: str
    application: str
    client: str
    theirs: str
    """A role of the application's own, which had its rights before ours were made."""


CALLED_BY_ENQUEUE = {
    "jobs_refuse_new", "jobs_is_printable", "jobs_canonical", "jobs_read_new", "jobs_channel",
}  # fmt: skip
"""And those that take a `jobs_new`."""

IN_EACH_SCHEMA = pytest.mark.parametrize("roles", [DEFAULT_SCHEMA, "public"], indirect=True)


@pytest.fixture
async def roles(
    empty_dsn: str, make_settings: Callable[..., Settings], request: pytest.FixtureRequest
) -> AsyncIterator[Roles]:
    stem = f"finmind_test_{os.getpid()}_{next(_numbers)}"
    schema = getattr(request, "param", DEFAULT_SCHEMA)
    names = RoleNames(f"{stem}_m", f"{stem}_w", f"{stem}_r", f"{stem}_a", f"{stem}_c", schema)
    given = (
        names.migrator, names.runtime, names.readonly, names.application, names.client,
        f"{stem}_theirs",
    )  # fmt: skip
    await databases.execute(
        empty_dsn,
        f"CREATE ROLE {stem}_theirs LOGIN",
        "CREATE TABLE public.invoices (id int)",
        f"GRANT SELECT, INSERT ON public.invoices TO {stem}_theirs",
        roles_sql(names),
    )
    try:
        await databases.execute(
            empty_dsn, *(f"ALTER ROLE {name} PASSWORD '{PASSWORD}'" for name in given)
        )
        made = Roles(names, empty_dsn, *(as_role(empty_dsn, name) for name in given))
        settings = make_settings(database_schema=schema)
        database = Database(made.migrator, settings)
        try:
            await upgrade(database, settings)
        finally:
            await database.close()
        await databases.execute(empty_dsn, roles_sql(names))
        yield made
    finally:
        for name in given:
            await databases.execute(empty_dsn, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


def as_role(dsn: str, name: str) -> str:
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{name}:{PASSWORD}@{place}"))


async def refused(connection: Any, statement: str) -> bool:
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    return False


MAKE_A_REMINDER = {
    "message": "Pay",
    "send_at": "2020-01-01T00:00:00Z",
    "channel": "log",
    "recipient": "ada",
}


@IN_EACH_SCHEMA
async def test_the_runtime_role_runs_the_whole_service(
    roles: Roles,
    make_settings: Callable[..., Settings],
    auth: Auth,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = make_settings(
        database_url=SecretStr(roles.runtime),
        auto_migrate=False,
        demo_handlers=True,
        maintenance_seconds=0.1,
        reminder_scan_seconds=0.1,
        unknown_type_grace_seconds=0,
        poll_max_seconds=0.1,
    )
    admin = await databases.connect(roles.admin)
    await admin.execute(f"ALTER ROLE {roles.names.runtime} SET search_path = ''")
    yesterdays = datetime.now(UTC).date() - timedelta(days=30)
    await admin.execute("SELECT jobs_make_day($1)", yesterdays)
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    client = httpx.AsyncClient(
        transport=transport, base_url="http://service.test", timeout=20, headers=auth("admin")
    )
    answers: list[int] = []

    async def ask(method: str, path: str, **options: Any) -> Any:
        answer = await client.request(method, path, **options)
        answers.append(answer.status_code)
        return answer.json() if answer.content else None

    async def status_of(job_id: int) -> str:
        status: str = (await ask("GET", f"/admin/jobs/{job_id}"))["status"]
        return status

    async with app.router.lifespan_context(app), client:
        made = await ask("POST", "/jobs", json={"job_type": "demo.ok", "unique_key": "k"})
        await ask("POST", "/jobs/batch", json={"jobs": [{"job_type": "demo.ok"}] * 3})
        unserved = await ask(
            "POST", "/jobs", json={"job_type": "nobody"}, headers={"Idempotency-Key": "once"}
        )

        async def both_ended() -> bool:
            ended = (await status_of(made["id"]), await status_of(unserved["id"]))
            return ended == ("SUCCESS", "FAILED")

        await eventually(both_ended)
        await ask("POST", f"/admin/jobs/{unserved['id']}/retry")
        waiting = await ask("POST", "/jobs", json={"job_type": "demo.ok", "delay_seconds": 600})
        await ask("POST", f"/admin/jobs/{waiting['id']}/cancel")
        await ask("DELETE", f"/admin/jobs/{waiting['id']}")
        await ask("GET", "/admin/jobs", params={"job_type": "demo.ok", "error": "x"})
        await ask("GET", "/admin/jobs/stats")
        await ask("POST", "/admin/jobs/process")
        key = await ask("POST", "/admin/api-keys", json={"name": "n", "scopes": ["jobs:read"]})
        used = await client.get(
            f"/jobs/{made['id']}", headers={"authorization": "", "X-API-Key": key["key"]}
        )
        assert used.status_code == 401  # two credentials
        del client.headers["authorization"]
        used = await client.get(f"/jobs/{made['id']}", headers={"X-API-Key": key["key"]})
        assert used.status_code == 200
        client.headers.update(auth("admin"))
        assert (await ask("GET", "/admin/api-keys"))["api_keys"][0]["last_used_at"]
        await ask("DELETE", f"/admin/api-keys/{key['prefix']}")
        sent = await ask("POST", "/reminders", json=MAKE_A_REMINDER)
        later = await ask(
            "POST", "/reminders", json=MAKE_A_REMINDER | {"send_at": "2100-01-01T00:00:00Z"}
        )
        await ask("PATCH", f"/reminders/{later['id']}", json={"message": "New"})
        await ask("DELETE", f"/reminders/{later['id']}")
        await ask("POST", "/reminders/run")

        async def is_sent() -> bool:
            return bool((await ask("GET", f"/reminders/{sent['id']}"))["sent"])

        async def partitions_are_right() -> bool:
            made = [row[0] for row in await admin.fetch(databases.PARTITIONS)]
            days = [name for name in made if name.startswith("jobs_done_")]
            return len(days) == settings.partition_days_ahead + 1 and (
                f"jobs_done_{yesterdays:%Y%m%d}" not in days
            )

        await eventually(is_sent)
        await eventually(partitions_are_right)
        await app.state.service.worker._maintenance._fold_stats()
        checks = (await client.get("/health/ready")).json()["checks"]
        # How long the event loop stood still says how busy the machine is, not what the role may do.
        assert {check["name"] for check in checks if not check["ok"]} <= {"event_loop"}
    await admin.close()
    assert {status for status in answers if status >= 400} == set()
    assert [
        record for record in caplog.records if "InsufficientPrivilege" in repr(record.msg)
    ] == []


CHANGES_OF_THE_SCHEMA = [
    "CREATE TABLE mine (n int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE INDEX mine ON jobs_live (job_type)",
    "CREATE OR REPLACE FUNCTION jobs_make_day(day date) RETURNS void LANGUAGE sql AS ''",
    "ALTER FUNCTION jobs_make_day(date) SET search_path = pg_temp",
    "ALTER TABLE jobs_live ADD COLUMN mine int",
    "ALTER TABLE jobs_live DISABLE TRIGGER ALL",
    "ALTER TABLE jobs_done DETACH PARTITION jobs_done_default",
    "ALTER SEQUENCE background_job_ids RESTART",
    "DROP TABLE background_jobs",
    "DROP TABLE idempotency_keys",
    "DROP FUNCTION jobs_drop_day(date)",
    "TRUNCATE jobs_live",
    "UPDATE alembic_version SET version_num = '0001'",
    "DELETE FROM alembic_version",
    "DELETE FROM api_keys",
    "UPDATE api_keys SET secret_hash = sha256('mine')",
    "UPDATE api_keys SET scopes = '{keys:manage}'",
    "SELECT setval('background_job_ids', 1)",
    "UPDATE audit_log SET actor = 'somebody else'",
    "DELETE FROM audit_log",
    "DELETE FROM audit_log_default",
    "TRUNCATE audit_log",
    "INSERT INTO audit_log (at, actor, action, subject_type, outcome) VALUES (now(), 1, 1, 1, 1)",
    "ALTER TABLE audit_log DISABLE TRIGGER append_only",
    "SELECT audit_make_append_only('jobs_live')",
    "SELECT setval('audit_log_ids', 1)",
    "SELECT pg_read_file('/etc/hostname')",
    "SELECT lo_export(1, '/dev/null')",
    "COPY background_jobs TO PROGRAM 'true'",
    "COPY background_jobs FROM '/etc/hostname'",
    "ALTER SYSTEM SET fsync = off",
    "SELECT pg_reload_conf()",
    "GRANT SELECT ON api_keys TO PUBLIC",
]


async def test_the_runtime_role_cannot_change_the_schema(roles: Roles) -> None:
    connection = await databases.connect(roles.runtime)
    done = [text for text in CHANGES_OF_THE_SCHEMA if not await refused(connection, text)]
    taken = [
        name
        for name in (roles.names.migrator, "postgres")
        if not await refused(connection, f"SET ROLE {name}")
    ]
    await connection.close()
    # GRANT without the right to is a warning, not an error.
    assert done == ["GRANT SELECT ON api_keys TO PUBLIC"]
    assert taken == []
    outsider = await databases.connect(roles.readonly)
    assert await refused(outsider, "SELECT secret_hash FROM api_keys")
    await outsider.close()


async def test_a_runtime_role_of_before_the_causes_goes_on_ending_jobs(roles: Roles) -> None:
    """Between a migration and the grants after it, and for workers of the version before."""
    admin = await databases.connect(roles.admin)
    for table in ("causes", "cause_hours", "cause_deltas"):
        await admin.execute(f"REVOKE ALL ON finmind_jobs.{table} FROM {roles.names.runtime}")
    connection = await databases.connect(roles.runtime)
    await connection.execute(
        "SET search_path = pg_temp;"
        "CREATE TEMP TABLE cause_deltas (LIKE finmind_jobs.job_workers);"
        "INSERT INTO finmind_jobs.background_jobs (job_type, status, finished_at, fingerprint)"
        " VALUES ('mail', 'FAILED', now(), 'a'), ('mail', 'FAILED', now(), 'a');"
        "DELETE FROM finmind_jobs.jobs_dead WHERE id = (SELECT min(id) FROM finmind_jobs.jobs_dead)"
    )
    await connection.close()
    assert await admin.fetchval("SELECT sum(jobs) FROM finmind_jobs.cause_deltas") == 1
    await admin.close()


RELEASED = "0010"
"""The newest revision of the version before."""


@IN_EACH_SCHEMA
async def test_a_migration_gives_the_runtime_role_what_the_next_version_needs(
    roles: Roles, make_settings: Callable[..., Settings]
) -> None:
    """A new process may start before somebody runs the roles' SQL again."""
    settings = make_settings(database_schema=roles.names.schema)
    owner = Database(roles.migrator, settings)
    await downgrade(owner, settings, RELEASED)
    await upgrade(owner, settings)
    await owner.close()
    admin = await databases.connect(roles.admin)
    lacking = await admin.fetch(
        "SELECT relname FROM pg_class c WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p')"
        " AND relname = ANY ($2) AND NOT has_table_privilege($3, c.oid, 'SELECT')",
        roles.names.schema, list(RUNTIME), roles.names.runtime,
    )  # fmt: skip
    await admin.close()
    assert [name for (name,) in lacking] == []
    runtime = await databases.connect(roles.runtime)
    schema = roles.names.schema
    await runtime.execute(
        f"INSERT INTO {schema}.job_rate_deltas (jobs, queue, job_type, outcome) VALUES (1, 'q', 't', 'SUCCESS')"
    )
    assert await refused(runtime, f"DELETE FROM {schema}.audit_log")
    await runtime.execute(f"SELECT {schema}.audit_make_month(current_date)")
    await runtime.close()
    other = await databases.connect(roles.application)
    assert await refused(other, f"SELECT FROM {schema}.operations")
    await other.close()


async def test_no_day_is_dropped_that_is_not_over(roles: Roles) -> None:
    connection = await databases.connect(roles.runtime)
    for days in (0, 1):
        day = datetime.now(UTC).date() + timedelta(days=days)
        await connection.execute("SELECT jobs_make_day($1)", day)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="is not over"):
            await connection.execute("SELECT jobs_drop_day($1)", day)
    await connection.close()


async def test_no_month_of_the_audit_log_is_dropped_that_ended_less_than_30_days_ago(
    roles: Roles,
) -> None:
    connection = await databases.connect(roles.runtime)
    for days in (-31, 0, 29):
        day = datetime.now(UTC).date() - timedelta(days=days)
        await connection.execute("SELECT audit_make_month($1)", day)
        with pytest.raises(asyncpg.InvalidParameterValueError, match="less than 30 days ago"):
            await connection.execute("SELECT audit_drop_month($1)", day)
    await connection.execute("SELECT audit_make_month('2020-01-15')")
    await connection.execute("SELECT audit_drop_month('2020-01-31')")
    assert await connection.fetchval("SELECT to_regclass('audit_log_202001')") is None
    await connection.close()


@pytest.mark.parametrize("path", ["public", "mine, public", "pg_temp, public"])
async def test_the_functions_heed_no_search_path_of_the_caller(roles: Roles, path: str) -> None:
    await databases.execute(
        roles.admin,
        f"CREATE SCHEMA mine AUTHORIZATION {roles.names.runtime}",
    )
    connection = await databases.connect(roles.runtime)
    await connection.execute("CREATE TABLE mine.jobs_done (n int) PARTITION BY RANGE (n)")
    # As an attacker would: who owns a schema may open it to the functions' owner.
    await connection.execute("GRANT ALL ON SCHEMA mine TO PUBLIC")
    await connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA mine TO PUBLIC")
    await connection.execute(f"SET search_path = {path}")
    await connection.execute("SELECT finmind_jobs.jobs_make_day('2030-01-01')")
    parent = await connection.fetchval(
        "SELECT inhparent::regclass::text FROM pg_inherits"
        " WHERE inhrelid = 'finmind_jobs.jobs_done_20300101'::regclass"
    )
    await connection.close()
    assert parent.removeprefix("finmind_jobs.") == "jobs_done"


WRITES = [
    "INSERT INTO background_jobs (job_type) VALUES ('mine')",
    "INSERT INTO jobs_live (job_type) VALUES ('mine')",
    "UPDATE background_jobs SET status = 'SUCCESS'",
    "DELETE FROM background_jobs",
    "DELETE FROM job_stats",
    "UPDATE reminders SET status = 'sent'",
    "INSERT INTO api_keys SELECT 'mine00000', sha256('mine'), 'mine', '{keys:manage}', 'me'",
    "UPDATE api_keys SET revoked_at = NULL",
    "SELECT id FROM background_jobs FOR UPDATE",
    "DO $$ BEGIN LOCK TABLE jobs_live IN ROW EXCLUSIVE MODE; END $$",
    "SELECT nextval('background_job_ids')",
    "SELECT jobs_make_day('2030-01-01')",
    "SELECT jobs_drop_day('2020-01-01')",
    "INSERT INTO audit_log (actor, action, subject_type, outcome) VALUES ('me', 'x', 'job', 'done')",
    "SELECT audit_make_month('2030-01-01')",
    "SELECT audit_drop_month('2020-01-01')",
    "SELECT nextval('audit_log_ids')",
]
SECRETS = [
    "SELECT secret_hash FROM api_keys",
    "SELECT * FROM api_keys",
    "SELECT k::text FROM api_keys k",
    "COPY api_keys TO STDOUT",
    "SELECT message FROM reminders",
    "SELECT recipient FROM reminders",
    "SELECT * FROM idempotency_keys",
    "SELECT rolpassword FROM pg_authid",
]


async def test_the_read_only_role_sees_jobs_and_neither_writes_nor_sees_secrets(
    roles: Roles,
) -> None:
    connection = await databases.connect(roles.readonly)
    assert await connection.fetchval("SELECT count(*) FROM background_jobs") == 0
    assert await connection.fetch("SELECT prefix, scopes, revoked_at FROM api_keys") == []
    assert await connection.fetch("SELECT id, status FROM reminders") == []
    statements = [*CHANGES_OF_THE_SCHEMA[:-1], *WRITES, *SECRETS]
    done = [text for text in statements if not await refused(connection, text)]
    await connection.close()
    assert done == []


@IN_EACH_SCHEMA
async def test_the_other_roles_of_the_database_keep_what_they_had(roles: Roles) -> None:
    connection = await databases.connect(roles.theirs)
    await connection.execute("INSERT INTO public.invoices VALUES (1)")
    await connection.execute("CREATE TEMP TABLE draft AS SELECT * FROM invoices")
    # And were given nothing.
    jobs = f"{roles.names.schema}.background_jobs"
    assert await refused(connection, f"SELECT FROM {jobs}")
    assert await refused(connection, f"INSERT INTO {jobs} (job_type) VALUES ('mine')")
    await connection.close()


async def test_a_schema_that_was_there_keeps_its_rights(empty_dsn: str, roles: Roles) -> None:
    await databases.execute(
        empty_dsn, "CREATE SCHEMA shared", "GRANT USAGE ON SCHEMA shared TO PUBLIC"
    )
    await databases.execute(empty_dsn, roles_sql(replace(roles.names, schema="shared")))
    connection = await databases.connect(roles.theirs)
    assert await connection.fetchval("SELECT has_schema_privilege('shared', 'USAGE')")
    await connection.close()


@pytest.mark.parametrize("roles", ["public"], indirect=True)
async def test_tables_that_are_in_public_are_not_looked_for_elsewhere(roles: Roles) -> None:
    sql = roles_sql(replace(roles.names, schema=DEFAULT_SCHEMA))
    with pytest.raises(asyncpg.RaiseError, match="`roles --schema public`"):
        await databases.execute(roles.admin, sql)


# -- applications ---------------------------------------------------------------------------------


@IN_EACH_SCHEMA
@pytest.mark.parametrize("member", [False, True], ids=["itself", "a member"])
async def test_the_application_role_enqueues_in_its_own_transaction(
    roles: Roles, member: bool
) -> None:
    dsn = roles.application
    if member:
        theirs = roles.names.runtime.removesuffix("_w") + "_theirs"
        await databases.execute(roles.admin, f"GRANT {roles.names.application} TO {theirs}")
        dsn = roles.theirs
    connection = await asyncpg.connect(dsn, server_settings={"search_path": ""})
    async with connection.transaction():
        first = await enqueue(connection, "mail", {"n": 1}, unique_key="one", priority=1)
        assert not (await enqueue(connection, "mail", unique_key="one")).created
        with pytest.raises(KeyHeld, match="which is PENDING"):
            await enqueue(connection, "mail", unique_key="one", on_conflict="reject")
        options: dict[str, Any] = {"unique_key": "hour", "unique_for_seconds": 3600}
        assert (await enqueue(connection, "mail", **options)).created
        assert not (await enqueue(connection, "mail", **options)).created
        await enqueue(connection, "mail", unique_by=["queue"], unique_scope="until_started")
        jobs = [NewJob("mail", unique_key=f"{n % 5}") for n in range(10)]
        assert await enqueue_many(connection, jobs) == 5
        assert (
            await enqueue_many(connection, [NewJob("mail", delay_seconds=60, max_retries=1)]) == 1
        )
        by_sql = await connection.fetchval(
            f"INSERT INTO {roles.names.schema}.background_jobs (job_type, payload, backoff)"
            " VALUES ('mail', '{}', NULL) RETURNING id"
        )
    await connection.close()
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    async with AsyncSession(engine) as session, session.begin():
        last = await enqueue(session, "mail")
    await engine.dispose()
    assert first.id < by_sql < last.id


NOT_TO_ENQUEUE = [
    "INSERT INTO background_jobs (job_type, status) VALUES ('mine', 'SUCCESS')",
    "INSERT INTO jobs_live (job_type, attempts) VALUES ('mine', 7)",
    "INSERT INTO jobs_live (id, job_type) VALUES (7, 'mine')",
    "INSERT INTO background_jobs (job_type, finished_at) VALUES ('mine', now())",
    "INSERT INTO jobs_dead (job_type, status) VALUES ('mine', 'FAILED')",
    "INSERT INTO jobs_live (job_type) VALUES ('mine') RETURNING payload",
    "SELECT payload FROM background_jobs",
    "SELECT job_type FROM jobs_live",
    "SELECT status FROM jobs_dead",
    "SELECT FROM job_stats",
    "SELECT FROM job_workers",
    "SELECT FROM idempotency_keys",
    "SELECT prefix FROM api_keys",
    "SELECT id FROM reminders",
    "UPDATE jobs_live SET priority = 0",
    "UPDATE background_jobs SET payload = '{}'",
    "DELETE FROM jobs_live",
    "INSERT INTO reminders (send_at) VALUES (now())",
    "SELECT nextval('background_job_lease_tokens')",
    "SELECT jobs_make_day('2030-01-01')",
    "SELECT jobs_drop_day('2020-01-01')",
]


async def test_the_application_role_does_nothing_else(roles: Roles) -> None:
    connection = await databases.connect(roles.application)
    statements = [*NOT_TO_ENQUEUE, *CHANGES_OF_THE_SCHEMA[:-1], *SECRETS]
    done = [text for text in statements if not await refused(connection, text)]
    await connection.close()
    # Ids may be skipped, as every enqueue that is rolled back skips some.
    assert done == []


@IN_EACH_SCHEMA
async def test_the_client_role_enqueues_by_the_two_functions_and_does_nothing_else(
    roles: Roles,
) -> None:
    schema = roles.names.schema
    connection = await databases.connect(roles.client)
    await connection.execute(f"SET search_path = {schema}")
    first = await connection.fetchval("SELECT enqueue_job('mail', '{}', unique_key => 'k')")
    rows = await connection.fetch(
        "SELECT id, created FROM enqueue_jobs($1)", '[{"job_type": "mail", "unique_key": "k"}]'
    )
    assert [tuple(row) for row in rows] == [(first, False)]
    own = [
        "INSERT INTO jobs_live (job_type) VALUES ('mine')",
        "INSERT INTO background_jobs (job_type) VALUES ('mine')",
        "SELECT id FROM background_jobs",
        "SELECT FROM unique_windows",
        "SELECT FROM served_types",
        "SELECT nextval('background_job_ids')",
        "SELECT jobs_store_new(NULL, true)",
        "SELECT jobs_check_new(NULL, NULL)",
        "SELECT jobs_canonical('1')",
    ]
    statements = [*own, *NOT_TO_ENQUEUE, *CHANGES_OF_THE_SCHEMA[:-1], *WRITES[2:], *SECRETS]
    assert [text for text in statements if not await refused(connection, text)] == []
    # A migration that makes the function anew leaves it the right to call it.
    await databases.execute(
        roles.migrator,
        f"DROP FUNCTION {schema}.enqueue_job",
        f"CREATE FUNCTION {schema}.enqueue_job() RETURNS int LANGUAGE sql AS 'SELECT 7';"
        f"REVOKE ALL ON FUNCTION {schema}.enqueue_job FROM PUBLIC; {new_grants_sql(schema)}",
    )
    assert await connection.fetchval("SELECT enqueue_job()") == 7
    await connection.close()


async def test_every_table_sequence_and_function_is_thought_of(database: Database) -> None:
    async with database.engine.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        found = await raw.fetch(
            "SELECT relkind::text, relname FROM pg_class c"
            " WHERE relnamespace = 'finmind_jobs'::regnamespace AND relkind IN ('r', 'p', 'S')"
            " AND (relkind <> 'S' OR NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'i'))"
        )
        functions = await raw.fetch(
            "SELECT oid::regprocedure::text, proacl IS NULL OR EXISTS ("
            "  SELECT FROM aclexplode(proacl) a WHERE a.grantee = 0) FROM pg_proc"
            " WHERE pronamespace = 'finmind_jobs'::regnamespace AND prorettype <> 'trigger'::regtype"
        )  # PostgreSQL asks nobody's leave to run a trigger
    tables = {name for kind, name in found if kind != "S"}
    assert tables == set(RUNTIME)
    assert tables - {"idempotency_keys", "dashboard_sessions"} == set(READ_ONLY)
    assert {name for kind, name in found if kind == "S"} == set(SEQUENCES)
    named = {name.partition("(")[0]: name for name in map(itemgetter(0), functions)}
    # Some are called by the others alone, as the owner of the tables.
    own = {"jobs_day_apart(date)", "audit_make_append_only(text)"}
    enqueue_calls = {name for name in named.values() if "jobs_new" in name} | {
        named[name] for name in CALLED_BY_ENQUEUE
    }
    clients = {named[name] for name in CLIENT_FUNCTIONS}
    assert set(named.values()) - own - enqueue_calls - clients == set(FUNCTIONS)
    assert not [row[0] for row in functions if row[1]], "anybody may call these"


@pytest.mark.parametrize("name", ["", "A", "a b", "a;drop", 'a"b', "a'b", "ä", "1a", "a" * 64])
def test_a_name_that_would_be_more_than_a_name_is_refused(name: str) -> None:
    for names in (RoleNames(runtime=name), RoleNames(schema=name)):
        with pytest.raises(ConfigurationError, match="not a valid name of a role"):
            roles_sql(names)
    with pytest.raises(ConfigurationError, match="five names"):
        roles_sql(RoleNames(runtime="finmind_migrator"))
