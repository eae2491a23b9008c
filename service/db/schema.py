"""The schema that the tables are in, and how statements name it.

Statements are written for the default schema, `finmind_jobs.jobs_live`: valid SQL that does not depend
on `search_path`. If the tables are in another schema, `render` replaces its name.
"""

import functools
import os
import re
import weakref
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, event

from service.errors import ConfigurationError
from service.settings import DEFAULT_SCHEMA, SCHEMA_PATTERN

EARLIER_SCHEMA: Final = "public"
"""Where versions before `DATABASE_SCHEMA` made their tables, and where those stay."""

_PREFIX: Final = re.compile(rf"\b{DEFAULT_SCHEMA}\.")

# By the catalogue: to_regclass raises where the schema may not be used, and an error would break the
# transaction of a caller. They are ours, and not namesakes, if one is a partition of the other.
_FIND: Final = f"""
SELECT n.nspname FROM pg_catalog.pg_class live
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = live.oid
  JOIN pg_catalog.pg_class jobs ON jobs.oid = i.inhparent
  JOIN pg_catalog.pg_namespace n ON n.oid = jobs.relnamespace
WHERE live.relname = 'jobs_live' AND jobs.relname = 'background_jobs'
  AND live.relnamespace = jobs.relnamespace AND n.nspname IN ('{DEFAULT_SCHEMA}', '{EARLIER_SCHEMA}')
ORDER BY n.nspname = '{EARLIER_SCHEMA}' LIMIT 1"""  # noqa: S608 - constants

_known: Final[weakref.WeakKeyDictionary[object, str]] = weakref.WeakKeyDictionary()
"""The schemas of engines, and of asyncpg's connections."""


def render(statement: str, schema: str) -> str:
    """The statement for tables in `schema`."""
    return statement if schema == DEFAULT_SCHEMA else _rendered(statement, schema)


@functools.lru_cache(maxsize=1024)
def _rendered(statement: str, schema: str) -> str:
    return _PREFIX.sub(f'"{schema}".', statement)  # quoted: it may be a word of SQL


def lock_name(name: str, schema: str) -> str:
    """The name of an advisory lock: two installations in one database share none.

    In `public` it is what it was before there was another schema: old processes may hold it.
    """
    return name if schema == EARLIER_SCHEMA else f"{name} {schema}"


def lock_key(key: int, schema: str) -> int:
    """The same for a lock whose key is a number."""
    return key if schema == EARLIER_SCHEMA else key ^ zlib.crc32(schema.encode())


def channel(schema: str) -> str:
    """The channel of notifications: named as the schema.

    That of `public` is the one it had before, and so the same as the default schema's: a notification
    of the other's jobs makes a worker look once more than needed.
    """
    return DEFAULT_SCHEMA if schema == EARLIER_SCHEMA else schema


async def find(fetch: Callable[[str], Awaitable[Sequence[Any]]]) -> str | None:
    """The schema of the tables if `DATABASE_SCHEMA` is not set; None if there are no tables."""
    rows = await fetch(_FIND)
    return str(rows[0][0]) if rows else None


async def find_once(holder: object, fetch: Callable[[str], Awaitable[Sequence[Any]]]) -> str:
    """The schema of an engine's or a connection's database; looked for only at first.

    `DATABASE_SCHEMA` of the environment takes precedence: this runs in processes without `Settings`.

    Raises:
        ConfigurationError: there are no tables. The transaction that was to use them goes on.
    """
    schema = _known.get(holder)
    if schema is None:
        schema = os.environ.get("DATABASE_SCHEMA", DEFAULT_SCHEMA)
        if not re.match(SCHEMA_PATTERN, schema):
            raise ConfigurationError(
                f"DATABASE_SCHEMA: {schema[:80]!r} is not a valid schema name: expected a to z, "
                "0 to 9 and _"
            )
        if schema == DEFAULT_SCHEMA:
            found = await find(fetch)
            if found is None:
                raise ConfigurationError(
                    f"This database has no job tables in schema {DEFAULT_SCHEMA} or "
                    f"{EARLIER_SCHEMA}: run `python -m service migrate` on it, or set "
                    "DATABASE_SCHEMA to where they are"
                )
            schema = found
        remember(holder, schema)
    return schema


def remember(holder: object, schema: str) -> None:
    """Remember the schema of the tables in the database of an engine or a connection.

    From then on the engine renders what SQLAlchemy writes.
    """
    if _known.get(holder) == schema:
        return
    _known[holder] = schema
    if isinstance(holder, Engine) and schema != DEFAULT_SCHEMA:
        event.listen(holder, "before_cursor_execute", _before_execute(schema), retval=True)


def recall(holder: object) -> str:
    """The schema that `remember` stored, or the default."""
    return _known.get(holder, DEFAULT_SCHEMA)


def _before_execute(schema: str) -> Callable[..., tuple[str, Any]]:
    def before_execute(
        _connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object
    ) -> tuple[str, Any]:
        return render(statement, schema), parameters

    return before_execute
