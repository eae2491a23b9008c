"""The least that each database role needs, as SQL: who migrates, who runs, who only looks.

The runtime role writes rows and calls two functions that make and drop day partitions as the owner
of the tables; it cannot change the schema. The read-only role sees jobs, not the hashes of API keys
and not what reminders say or to whom.
"""

import re
from dataclasses import dataclass
from typing import Final

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
    "job_workers": WHOLE_ROWS,
    "idempotency_keys": WHOLE_ROWS,
    "reminders": WHOLE_ROWS,
    "api_keys": "SELECT, INSERT, UPDATE (revoked_at, last_used_at)",
    "alembic_version": "SELECT",
}
"""What the service does to each table. Days of `jobs_done` are reached through it alone."""

READ_ONLY: Final = {
    "background_jobs": "SELECT",
    "jobs_live": "SELECT",
    "jobs_dead": "SELECT",
    "jobs_done": "SELECT",
    "jobs_done_default": "SELECT",
    "job_stats": "SELECT",
    "job_workers": "SELECT",
    "reminders": "SELECT (id, job_id, send_at, sent_at, created_at, updated_at, attempts, user_id,"
    " channel, status)",
    "api_keys": "SELECT (prefix, name, scopes, created_by, created_at, expires_at, revoked_at,"
    " last_used_at)",
    "alembic_version": "SELECT",
}
"""What people and dashboards may look at; of `idempotency_keys` nothing is worth a look."""

SEQUENCES: Final = ("background_job_ids", "background_job_lease_tokens")
FUNCTIONS: Final = ("jobs_make_day(date)", "jobs_drop_day(date)")


@dataclass(frozen=True, slots=True)
class RoleNames:
    """What the three roles are called, and the schema that the tables are in."""

    migrator: str = "finmind_migrator"
    runtime: str = "finmind_runtime"
    readonly: str = "finmind_readonly"
    schema: str = DEFAULT_SCHEMA


def roles_sql(names: RoleNames) -> str:
    """The SQL that makes the roles and grants what they need; to be run as often as one likes.

    Before the first migration it makes the roles alone: what is not there yet is passed over. After
    it, and after each further one, it grants.

    Raises:
        ConfigurationError: a name is not a plain, lower-case identifier, or two are the same.
    """
    given = (names.migrator, names.runtime, names.readonly)
    for name in (*given, names.schema):
        # They stand in the text of statements: PostgreSQL takes no parameters there.
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name[:80]!r} is no name of a role or schema: expected a to z, 0 to 9 and _"
            )
    if len(set(given)) < len(given):
        raise ConfigurationError("The three roles need three names")
    return "\n".join((_HEAD, *map(_role, given), _access(names), _grants(names)))


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


def _access(names: RoleNames) -> str:
    everyone = f"{names.migrator}, {names.runtime}, {names.readonly}"
    return f"""
DO $do$ BEGIN
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO {everyone}', current_database());
END $do$;
CREATE SCHEMA IF NOT EXISTS {names.schema};
REVOKE ALL ON SCHEMA {names.schema} FROM PUBLIC;
GRANT USAGE ON SCHEMA {names.schema} TO {everyone};
GRANT CREATE ON SCHEMA {names.schema} TO {names.migrator};
"""


def _grants(names: RoleNames) -> str:
    lines = [
        *_on_tables(names.schema, names.runtime, RUNTIME),
        *_on_tables(names.schema, names.readonly, READ_ONLY),
        *(
            _where_there(
                f"to_regclass('{names.schema}.{sequence}')",
                f"GRANT USAGE ON SEQUENCE {names.schema}.{sequence} TO {names.runtime}",
            )
            for sequence in SEQUENCES
        ),
        *(
            _where_there(
                f"to_regprocedure('{names.schema}.{function}')",
                f"GRANT EXECUTE ON FUNCTION {names.schema}.{function} TO {names.runtime}",
            )
            for function in FUNCTIONS
        ),
    ]
    return "DO $do$ BEGIN\n" + "\n".join(lines) + "\nEND $do$;\n"


def _on_tables(schema: str, role: str, tables: dict[str, str]) -> list[str]:
    # First all is taken: a right that a newer version has no use for must not stay.
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
