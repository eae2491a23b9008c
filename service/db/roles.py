"""The SQL of the database roles with least privilege: to migrate, to run, to read, to enqueue.

The runtime role writes rows and calls functions that create and drop partitions as the owner of the
tables; it cannot change the schema. The read-only role sees jobs, but not the hashes of API keys
nor the messages and recipients of reminders. The role of applications enqueues in their own
transactions, by Python or by SQL; that of clients does so by `enqueue_job` and `enqueue_jobs` alone.

The database may belong to an application: the SQL revokes rights only on the service's own objects.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.db.schema import EARLIER_SCHEMA
from service.errors import ConfigurationError
from service.settings import DEFAULT_SCHEMA

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}", re.ASCII)

WHOLE_ROWS: Final = "SELECT, INSERT, UPDATE, DELETE"
RUNTIME: Final = {
    "background_jobs": WHOLE_ROWS,
    "jobs_live": WHOLE_ROWS,
    "jobs_dead": WHOLE_ROWS,
    "jobs_done": WHOLE_ROWS,
    "jobs_done_default": WHOLE_ROWS,
    "job_stats": WHOLE_ROWS,
    "job_rate_deltas": WHOLE_ROWS,
    "job_rates": WHOLE_ROWS,
    "causes": WHOLE_ROWS,
    "cause_hours": WHOLE_ROWS,
    "cause_deltas": WHOLE_ROWS,
    "job_logs": WHOLE_ROWS,
    "job_steps": WHOLE_ROWS,
    "job_events": WHOLE_ROWS,
    "job_dependencies": WHOLE_ROWS,
    "job_endings": WHOLE_ROWS,
    "batches": WHOLE_ROWS,
    "result_drops": WHOLE_ROWS,
    "job_workers": WHOLE_ROWS,
    "remote_claims": WHOLE_ROWS,
    "served_types": WHOLE_ROWS,
    "idempotency_keys": WHOLE_ROWS,
    "caller_usage": WHOLE_ROWS,
    "job_names": WHOLE_ROWS,
    "queues": WHOLE_ROWS,
    "job_permits": WHOLE_ROWS,
    "unique_windows": WHOLE_ROWS,
    "rate_limits": WHOLE_ROWS,
    "targets": WHOLE_ROWS,
    "reminders": WHOLE_ROWS,
    "dashboard_sessions": WHOLE_ROWS,
    "operations": WHOLE_ROWS,
    "operation_skips": WHOLE_ROWS,
    "schedules": WHOLE_ROWS,
    "schedule_ticks": WHOLE_ROWS,
    "api_keys": "SELECT, INSERT, UPDATE (revoked_at, last_used_at)",
    "audit_log": "SELECT, INSERT (actor, action, subject_type, subject_id, filter, before, after,"
    " reason, request_id, address, outcome)",
    "audit_log_default": "SELECT",
    "alembic_version": "SELECT",
}
"""What the service does to each table. Days of `jobs_done` and months of `audit_log` are reached
through these alone. When an entry of `audit_log` was written, and its number, is not for the service
to say."""

READ_ONLY: Final = {
    "background_jobs": "SELECT",
    "jobs_live": "SELECT",
    "jobs_dead": "SELECT",
    "jobs_done": "SELECT",
    "jobs_done_default": "SELECT",
    "job_stats": "SELECT",
    "job_rate_deltas": "SELECT",
    "job_rates": "SELECT",
    "causes": "SELECT",
    "cause_hours": "SELECT",
    "cause_deltas": "SELECT",
    "job_logs": "SELECT",
    "job_steps": "SELECT",
    "job_events": "SELECT",
    "job_dependencies": "SELECT",
    "job_endings": "SELECT",
    "batches": "SELECT",
    "result_drops": "SELECT",
    "job_workers": "SELECT",
    "remote_claims": "SELECT",
    "served_types": "SELECT",
    "caller_usage": "SELECT",
    "job_names": "SELECT",
    "queues": "SELECT",
    "job_permits": "SELECT",
    "unique_windows": "SELECT",
    "rate_limits": "SELECT",
    "targets": "SELECT",
    "operations": "SELECT",
    "operation_skips": "SELECT",
    "schedules": "SELECT",
    "schedule_ticks": "SELECT",
    "reminders": "SELECT (id, job_id, send_at, sent_at, created_at, updated_at, attempts, user_id,"
    " channel, status)",
    "api_keys": "SELECT (prefix, name, scopes, created_by, created_at, expires_at, revoked_at,"
    " last_used_at)",
    "audit_log": "SELECT",
    "audit_log_default": "SELECT",
    "alembic_version": "SELECT",
}
"""What people and dashboards may read: not `idempotency_keys`, which holds nothing of interest, nor
`dashboard_sessions`."""

_GIVEN: Final = (
    "job_type, payload, queue, priority, max_retries, timeout_seconds, next_run_at, unique_key,"
    " backoff, concurrency_key, unique_until_start, callback, result_ttl_seconds"
)
APPLICATION: Final = {
    "background_jobs": f"INSERT ({_GIVEN}), SELECT (id)",
    "jobs_live": f"INSERT ({_GIVEN}, lease_token), SELECT (id, created_at, next_run_at,"
    " held_due_at, unique_key, unique_until_start, status)",
    "unique_windows": "SELECT, INSERT, UPDATE",
}
"""The columns that an enqueue sets, and those that it reads back. No status: a job starts PENDING."""

SEQUENCES: Final = ("background_job_ids", "background_job_lease_tokens", "audit_log_ids")
IDS: Final = "background_job_ids"
FUNCTIONS: Final = (
    "jobs_make_day(date)",
    "jobs_drop_day(date)",
    "jobs_copy_late(date,timestamp with time zone,bigint,integer)",
    "audit_make_month(date)",
    "audit_drop_month(date)",
)
CLIENT_FUNCTIONS: Final = ("enqueue_job", "enqueue_jobs")
"""What clients may call. The arguments of the first grow with its options; those of the second stay, so
that who may call it is known whatever becomes of the first."""


@dataclass(frozen=True, slots=True)
class RoleNames:
    """The names of the roles, and the schema of the tables."""

    migrator: str = "finmind_migrator"
    runtime: str = "finmind_runtime"
    readonly: str = "finmind_readonly"
    application: str = "finmind_application"
    client: str = "finmind_client"
    schema: str = DEFAULT_SCHEMA


def roles_sql(names: RoleNames) -> str:
    """The SQL that creates the roles and grants what they need; safe to run again.

    Before the first migration it creates the roles and skips tables that do not exist yet. Run it again
    after every migration: the migration itself gives the runtime role what it needs, and those who enqueue
    by `enqueue_job` its newest form, and no other role anything.

    Raises:
        ConfigurationError: a name is not a plain, lower-case identifier, or two are the same.
    """
    given = (names.migrator, names.runtime, names.readonly, names.application, names.client)
    for name in (*given, names.schema):
        # They are part of the statements' text: PostgreSQL takes no parameters there.
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name[:80]!r} is not a valid name of a role or schema: expected a to z, 0 to 9 and _"
            )
    if len(set(given)) < len(given):
        raise ConfigurationError("The five roles need five names")
    return "\n".join(
        (_HEAD, *map(_role, given), _schema(names), _access(names, given), _grants(names))
    )


def new_grants_sql(schema: str) -> str:
    """The SQL that gives roles what they need of new tables and functions.

    Migrations end with it: else a process that starts before the roles' SQL was run again could not
    record how its jobs ended. The roles that run the service are those that may count jobs; clients are
    those that may call `enqueue_jobs`. Rights that they have stay.
    """
    # Of constants, and of a name that is one.
    tables = "\n".join(
        f"  IF EXISTS (SELECT FROM pg_class c WHERE c.oid = to_regclass('{schema}.{table}') AND NOT"  # noqa: S608
        " EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = role::regrole)) THEN\n"
        f"    EXECUTE format('GRANT {privileges} ON {schema}.{table} TO %s', role);\n  END IF;"
        for table, privileges in RUNTIME.items()
    )
    functions = "\n".join(
        _where_there(
            f"to_regprocedure('{schema}.{function}')",
            f"EXECUTE format('GRANT EXECUTE ON FUNCTION {schema}.{function} TO %s', role)",
        )
        for function in FUNCTIONS
    )
    calls = "\n".join(
        _where_there(
            f"to_regproc('{schema}.{name}')",
            f"EXECUTE format('GRANT EXECUTE ON FUNCTION {schema}.{name} TO %s', role)",
        )
        for name in CLIENT_FUNCTIONS
    )
    return f"""DO $do$ DECLARE role text; BEGIN
  FOR role IN
    SELECT DISTINCT a.grantee::regrole::text FROM pg_class c, aclexplode(c.relacl) a
    WHERE c.oid = to_regclass('{schema}.job_stats') AND a.privilege_type = 'INSERT'
      AND a.grantee NOT IN (0, c.relowner)
  LOOP
{tables}
{functions}
  END LOOP;
  FOR role IN
    SELECT a.grantee::regrole::text FROM pg_proc p, aclexplode(p.proacl) a
    WHERE p.oid = to_regprocedure('{schema}.enqueue_jobs(jsonb)') AND a.privilege_type = 'EXECUTE'
      AND a.grantee NOT IN (0, p.proowner)
  LOOP
{calls}
  END LOOP;
END $do$"""  # noqa: S608


_HEAD: Final = """\
-- Roles of FinMind Jobs. Run it as an administrator of the database, before the first `migrate` and
-- after every one; each role then needs a password (`\\password name` in psql).
"""


def _role(name: str) -> str:
    return (
        f"DO $do$ BEGIN\n  CREATE ROLE {name} LOGIN NOINHERIT"
        f" NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;\n"
        "EXCEPTION WHEN duplicate_object THEN NULL; END $do$;"
    )


def _schema(names: RoleNames) -> str:
    """Create the schema unless it exists: then it may belong to others, and its rights stay."""
    return f"""
DO $do$ BEGIN
  IF to_regclass('{names.schema}.jobs_live') IS NULL AND EXISTS (
    SELECT FROM pg_inherits WHERE inhrelid = to_regclass('{EARLIER_SCHEMA}.jobs_live')
      AND inhparent = to_regclass('{EARLIER_SCHEMA}.background_jobs')) THEN
    RAISE EXCEPTION 'the tables are in the schema {EARLIER_SCHEMA}: make this SQL with'
      ' `roles --schema {EARLIER_SCHEMA}`';
  END IF;
  IF to_regnamespace('{names.schema}') IS NULL THEN
    CREATE SCHEMA {names.schema};
  END IF;
END $do$;"""


def _access(names: RoleNames, given: Sequence[str]) -> str:
    everyone = ", ".join(given)
    return f"""
DO $do$ BEGIN
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO {everyone}', current_database());
END $do$;
GRANT USAGE ON SCHEMA {names.schema} TO {everyone};
GRANT CREATE ON SCHEMA {names.schema} TO {names.migrator};
"""


def _grants(names: RoleNames) -> str:
    lines = [
        *_on_tables(names.schema, names.runtime, RUNTIME),
        *_on_tables(names.schema, names.readonly, READ_ONLY),
        *_on_tables(names.schema, names.application, APPLICATION),
        *(
            _where_there(
                f"to_regclass('{names.schema}.{sequence}')",
                f"GRANT USAGE ON SEQUENCE {names.schema}.{sequence} TO {role}",
            )
            for role, sequences in ((names.runtime, SEQUENCES), (names.application, (IDS,)))
            for sequence in sequences
        ),
        *(
            _where_there(
                f"to_regprocedure('{names.schema}.{function}')",
                f"GRANT EXECUTE ON FUNCTION {names.schema}.{function} TO {names.runtime}",
            )
            for function in FUNCTIONS
        ),
        *(
            _where_there(
                f"to_regproc('{names.schema}.{name}')",
                f"GRANT EXECUTE ON FUNCTION {names.schema}.{name} TO {names.application}, {names.client}",
            )
            for name in CLIENT_FUNCTIONS
        ),
    ]
    return "DO $do$ BEGIN\n" + "\n".join(lines) + "\nEND $do$;\n"


def _on_tables(schema: str, role: str, tables: dict[str, str]) -> list[str]:
    # Revoke all first: a right that this version no longer needs must not stay.
    return [
        _where_there(
            f"to_regclass('{schema}.{table}')",
            f"REVOKE ALL ON {schema}.{table} FROM PUBLIC, {role}",
            f"GRANT {privileges} ON {schema}.{table} TO {role}",
        )
        for table, privileges in tables.items()
    ]


def _where_there(found: str, *statements: str) -> str:
    lines = "".join(f"    {statement};\n" for statement in statements)
    return f"  IF {found} IS NOT NULL THEN\n{lines}  END IF;"
