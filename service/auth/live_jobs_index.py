"""The index that counts a caller's live jobs: it exists only if a quota needs it.

It would add a fifth to the WAL of every job enqueued over REST, and most installations do not limit
live jobs per caller.
"""

from typing import Final

from sqlalchemy import text

from service.db.engine import Database
from service.db.migrate import migrating
from service.errors import ConfigurationError
from service.settings import Settings

_IS_THERE: Final = text(
    "SELECT indisvalid FROM pg_index"
    " WHERE indexrelid = to_regclass('finmind_jobs.jobs_live_enqueued_by')"
)
# One that was cut short is there and of no use.
_DROP: Final = "DROP INDEX CONCURRENTLY IF EXISTS finmind_jobs.jobs_live_enqueued_by"
_CREATE: Final = (
    "CREATE INDEX CONCURRENTLY jobs_live_enqueued_by ON finmind_jobs.jobs_live (enqueued_by)"
    " WHERE enqueued_by IS NOT NULL"
)


async def ensure_live_jobs_index(database: Database, settings: Settings) -> None:
    """Ensure that the index exists if `CALLER_LIVE_JOBS` is set; build it unless `AUTO_MIGRATE` is off.

    Raises:
        ConfigurationError: it is missing, and `AUTO_MIGRATE` is off.
        Unavailable: another process migrates for too long.
    """
    if not settings.caller_live_jobs:
        return
    async with database.engine.connect() as connection:
        if await connection.scalar(_IS_THERE):
            return
    if not settings.auto_migrate:
        raise ConfigurationError(
            f"CALLER_LIVE_JOBS needs an index, and AUTO_MIGRATE is off: run `{_CREATE}` as the owner "
            "of the tables first"
        )
    async with migrating(database, settings) as migration:
        connection = await migration.execution_options(isolation_level="AUTOCOMMIT")
        if not await connection.scalar(_IS_THERE):  # another process may have built it since
            await connection.execute(text(_DROP))
            await connection.execute(text(_CREATE))
