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


_OF_ITS_PROTOCOL: Final = {"get_settings", "_get_timeout", "prepare", "bind_execute"}
"""What asyncpg asks of its connection's protocol, which is None once it is closed."""


def as_cut_off(error: BaseException) -> asyncpg.InterfaceError | None:
    """The error that asyncpg means where it stumbles over its own closed connection; None for any other.

    While it looks up types that a statement needs, or prepares it, a timeout may close the connection; asyncpg
    goes on and finds None in place of it: an AttributeError, which nobody takes for one of the database.
    """
    if isinstance(error, AttributeError) and error.obj is None and error.name in _OF_ITS_PROTOCOL:
        return asyncpg.InterfaceError("the connection was closed while a statement was prepared")
    return None
