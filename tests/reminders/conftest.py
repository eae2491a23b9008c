"""A reminder in the database, and the service over HTTP as the tests of the API have it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.db.engine import Database
from service.reminders import repository
from service.reminders.handler import ReminderSender, bind
from service.reminders.model import Reminder, ReminderId
from service.settings import Settings
from tests.api.conftest import api_settings, app, auth, client

__all__ = ["api_settings", "app", "auth", "client"]

Condition = Callable[[], Awaitable[bool]]
AddReminder = Callable[..., Awaitable[Reminder]]
ReadReminder = Callable[[int], Awaitable[Reminder]]


async def eventually(condition: Condition, *, seconds: float = 10) -> None:
    """Look again and again until the condition holds, for a bounded time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - what it looks at is in the database
            await asyncio.sleep(0.01)


@pytest.fixture
def add(database: Database) -> AddReminder:
    """Makes a reminder that is due: `await add(channel="log", minutes=5)`."""

    async def make(*, minutes: float = -1, **values: Any) -> Reminder:
        due: dict[str, Any] = {
            "user_id": "ada",
            "message": "Pay",
            "send_at": datetime.now(UTC) + timedelta(minutes=minutes),
            "channel": "log",
            "recipient": "ada@example.org",
        }
        async with database.sessions.begin() as session:
            return await repository.insert(session, due | values)

    return make


@pytest.fixture
def read(database: Database) -> ReadReminder:
    """Reads a reminder that must be there: `await read(1)`."""

    async def find(reminder_id: int) -> Reminder:
        async with database.sessions() as session:
            reminder = await repository.find(session, ReminderId(reminder_id), user_id=None)
        assert reminder is not None
        return reminder

    return find


@pytest.fixture
def sender(database: Database, settings: Settings) -> ReminderSender:
    """The handler, registered on this test's database; no channel but `log` is configured."""
    return bind(database, settings)
