"""Receive notifications: of this process's own commits at once, of others' by LISTEN."""

import weakref
from collections.abc import Callable, Iterable
from typing import Final

from service.db import schema
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs.core.lane import Lane
from service.jobs.loops import Pause
from service.jobs.notify.listen import listen
from service.jobs.notify.messages import Look, Wake, decode
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

RECONNECT_LONGEST_SECONDS: Final = 1.0

_log = get_logger(__name__)
_subscriptions: weakref.WeakSet["Subscription"] = weakref.WeakSet()


class Subscription:
    """Calls a worker of this process back with the lanes that have new jobs."""

    def __init__(self, callback: Callable[[Iterable[Lane]], None]) -> None:
        self.callback = callback
        _subscriptions.add(self)

    def close(self) -> None:
        """Call back no more."""
        _subscriptions.discard(self)


def wake_local(lanes: Iterable[Lane]) -> bool:
    """Wake the workers of this process; whether there was one."""
    subscriptions = list(_subscriptions)
    for subscription in subscriptions:
        subscription.callback(lanes)
    return bool(subscriptions)


async def subscribe(database: Database, wake: Callable[[Iterable[Lane]], None]) -> None:
    """Call `wake` for each notification until cancelled; listens again whenever it is cut off.

    Args:
        database: where to listen.
        wake: takes the lanes with new jobs; none of them means: look.
    """
    pause = Pause(longest_seconds=RECONNECT_LONGEST_SECONDS)

    def received(text: str) -> None:
        pause.reset()
        match decode(text):
            case Wake(lanes):
                wake(lanes)
            case Look():
                wake(())

    while True:
        try:
            await listen(database, schema.channel(database.schema), received)
            reason = "cut off"
        except DATABASE_ERRORS as error:
            reason = type(error).__name__
        record_database_error("listen")
        _log.warning("listen_failed", error=reason)
        await pause.wait()
