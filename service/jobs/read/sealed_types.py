"""What handlers of other processes have encrypted: a process that serves the API may have none of them."""

import asyncio
from typing import Final

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.errors import InvalidInput
from service.jobs import store
from service.jobs.core.encryption import Sealing, sealing_of
from service.jobs.core.job_types import sealed_elsewhere
from service.jobs.loops import Loop
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

LOOK_SECONDS: Final = 30.0
"""How long a type may be served before this process knows that its payloads are encrypted."""

_log = get_logger(__name__)


class SealedTypes:
    """Keeps `sealed_elsewhere` as workers have published it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = Loop("sealed_types", self._run)

    async def start(self) -> None:
        """Read it, then again and again."""
        await self.look()
        self._loop.start()

    async def stop(self) -> None:
        """Read it no more."""
        await self._loop.stop()
        sealed_elsewhere.clear()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Read it once; what was known holds on where that fails."""
        try:
            async with self._database.sessions() as session:
                found = sealings(await store.served_types.encrypted(session))
        except DATABASE_ERRORS as error:
            record_database_error("sealed_types")
            _log.warning("sealed_types_not_read", error=type(error).__name__)
            return
        for gone in sealed_elsewhere.keys() - found.keys():
            del sealed_elsewhere[gone]
        sealed_elsewhere.update(found)


def sealings(published: list[tuple[str, object]]) -> dict[str, Sealing]:
    """What is encrypted by type, of rows that workers have written; what cannot be read counts as all."""
    found: dict[str, Sealing] = {}
    for job_type, given in published:
        try:
            sealing = sealing_of(given)
        except InvalidInput:  # of a later version
            sealing = True
        if sealing is not None:
            found[job_type] = sealing
    return found
