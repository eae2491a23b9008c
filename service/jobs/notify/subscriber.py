"""Receive notifications: of this process's own commits at once, of others' by LISTEN."""

import weakref
from collections.abc import Callable
from typing import Final

from service.db import schema
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs.loops import Pause
from service.jobs.notify.changes import Changes
from service.jobs.notify.listen import listen
from service.jobs.notify.messages import (
    Changed,
    Follow,
    Look,
    Message,
    Moved,
    Watch,
    decode,
)
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

RECONNECT_LONGEST_SECONDS: Final = 1.0

_log = get_logger(__name__)
_subscriptions: weakref.WeakSet["Subscription"] = weakref.WeakSet()


class Subscription:
    """Calls back with what this process publishes.

    Args:
        callback: takes each message.
        is_worker: whether it acts on ends of jobs, as workers do. What is told by other processes a worker
            is told by the listener that it starts; others are told here, whoever listens.
    """

    def __init__(self, callback: Callable[[Message], None], *, is_worker: bool = True) -> None:
        self.callback = callback
        self.is_worker = is_worker
        _subscriptions.add(self)

    def close(self) -> None:
        """Call back no more."""
        _subscriptions.discard(self)


def notify_local(message: Message) -> bool:
    """Notify whoever takes jobs in this process; whether there was a worker."""
    subscriptions = list(_subscriptions)
    for subscription in subscriptions:
        subscription.callback(message)
    return any(subscription.is_worker for subscription in subscriptions)


async def subscribe(
    database: Database, notified: Callable[[Message], None], changes: Changes
) -> None:
    """Pass each notification on until cancelled; listens again whenever it is cut off.

    Args:
        database: where to listen.
        notified: takes what concerns a worker.
        changes: of this process; it learns that a dashboard is open or a job followed, and that jobs
            changed.
    """
    pause = Pause(longest_seconds=RECONNECT_LONGEST_SECONDS)

    def received(text: str) -> None:
        pause.reset()
        _pass_on(decode(text), notified, changes)

    while True:
        try:
            await listen(database, schema.channel(database.schema), received)
            reason = "cut off"
        except DATABASE_ERRORS as error:
            reason = type(error).__name__
        record_database_error("listen")
        _log.warning("listen_failed", error=reason)
        await pause.wait()


def _pass_on(message: Message, notified: Callable[[Message], None], changes: Changes) -> None:
    match message:
        case Watch():
            changes.watch()
        case Follow():
            changes.followed.heard_follow(message)
        case Moved():
            changes.followed.heard_moved(message)
        case Changed():
            changes.followed.unsure()
            changes.heard()
        case _:
            if isinstance(message, Look):
                changes.followed.unsure()
            notified(message)
            for subscription in list(_subscriptions):
                if not subscription.is_worker:
                    subscription.callback(message)
            changes.heard()
