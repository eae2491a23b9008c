"""What a statement raises when the database, the way to it or a value fails."""

from typing import Final

import asyncpg

from service.db.hosts import UNREACHABLE

DATABASE_ERRORS: Final = UNREACHABLE
"""What a statement raises when the database or the way to it fails."""

REFUSED_ERRORS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.PLPGSQLError,  # a trigger refuses the row
)
"""Those of them that mean: the database works, and a value is invalid. Trying again does not help."""
