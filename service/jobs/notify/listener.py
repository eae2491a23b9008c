"""The one LISTEN connection of a process that runs no worker, open while somebody needs it."""

from service.db.engine import Database
from service.jobs.loops import Loop
from service.jobs.notify.publisher import publisher_for
from service.jobs.notify.subscriber import subscribe
from service.settings import Settings


class Listener:
    """Listens while it is held, with one connection however many hold it.

    A worker of the process listens anyway, and then this does nothing.
    """

    def __init__(self, database: Database, settings: Settings, *, worker: bool) -> None:
        """`worker`: whether this process runs one."""
        self._database = database
        self._listens = settings.database_listen and not worker
        self._holders = 0
        self._loop: Loop | None = None

    def hold(self) -> None:
        """Listen from now on."""
        self._holders += 1
        if self._listens and self._loop is None:
            changes = publisher_for(self._database.engine).changes
            self._loop = Loop(
                "listener", lambda: subscribe(self._database, lambda _: None, changes)
            )
            self._loop.start()

    async def release(self) -> None:
        """Listen no more, unless others hold it."""
        self._holders -= 1
        if self._holders == 0 and self._loop is not None:
            loop, self._loop = self._loop, None
            await loop.stop()
