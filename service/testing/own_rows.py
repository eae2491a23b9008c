"""Which rows the transaction of a test wrote itself."""

from typing import Final

_THIS: Final = "pg_current_xact_id()::text::numeric"
_HALF: Final = 2**31


def is_own(table: str) -> str:
    """A condition: a row of `table`, which is visible, was written by the transaction that asks, or in a savepoint of it.

    What others wrote is visible only once they have committed. `xmin` has 32 bits of the 64 that name a transaction:
    the nearest one is meant.
    """
    nearest = f"mod({table}.xmin::text::numeric - {_THIS} + {3 * _HALF}, {2 * _HALF}) - {_HALF}"
    return f"pg_xact_status(greatest({_THIS} + {nearest}, 3)::text::xid8) IS NOT DISTINCT FROM 'in progress'"
