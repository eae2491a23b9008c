"""Schedules by the client, against a real service over HTTP."""

import asyncio
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from finmind_client import (
    AsyncClient,
    Client,
    Conflict,
    InvalidInput,
    NewSchedule,
    NotFound,
    ScheduleOptions,
)
from service.schedules.schemas import ScheduleIn
from service.settings import Settings
from tests.dashboard.served import serving


def test_a_new_schedule_has_every_option_of_the_api() -> None:
    members = {field.name for field in fields(NewSchedule)}
    assert members == set(ScheduleIn.model_fields)
    assert members == {"name", "job_type", "payload", *ScheduleOptions.__annotations__}


@pytest.mark.whole
async def test_schedules_are_made_changed_run_and_deleted(
    make_settings: Callable[..., Settings], pg_dsn: str
) -> None:
    settings = make_settings(database_url=SecretStr(pg_dsn), handler_modules=("service.demo",))
    async with (
        serving(settings, worker=False) as served,
        AsyncClient(served.url, token=served.token("admin")) as client,
    ):
        schedules = client.schedules
        made = await schedules.create(
            "digests", "demo.ok", {"number": 1}, cron="30 6 * * 1-5", zone="Europe/Berlin"
        )
        assert (made.name, made.zone, made.overlap, made.paused) == (
            "digests", "Europe/Berlin", "skip", False
        )  # fmt: skip
        await schedules.create("polls", "demo.ok", every_seconds=60)
        with pytest.raises(Conflict):
            await schedules.create("polls", "demo.ok", every_seconds=60)
        with pytest.raises(InvalidInput, match="zone"):
            await schedules.create("odd", "demo.ok", cron="@daily", zone="Mars/Base")
        names = [one.name async for one in schedules.list(page_size=1)]
        assert names == ["digests", "polls"]
        await schedules.pause("digests", "polls", reason="a test")
        assert (await schedules.get("polls")).pause_reason == "a test"
        await schedules.resume("digests")
        paused = [one.name async for one in schedules.list(paused=True)]
        assert paused == ["polls"]
        assert (await schedules.change("digests", cron="0 7 * * *")).cron == "0 7 * * *"
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        done = await schedules.backfill(
            "polls", now - timedelta(minutes=3), now, overlap="allow", reason="a bug"
        )
        assert (done.ticks, done.enqueued, done.skipped) == (3, 3, 0)
        ran = await asyncio.to_thread(_without_asyncio, served.url, served.token("admin"))
        assert (await client.get(ran)).job_type == "demo.ok"
        ticks = [tick.outcome async for tick in schedules.ticks("polls", page_size=2)]
        assert sorted(ticks) == ["backfilled"] * 3 + ["fired"]
        await schedules.delete("polls")
        with pytest.raises(NotFound):
            await schedules.get("polls")
        with pytest.raises(Conflict):
            await schedules.release("digests")
        with pytest.raises(ValueError, match="begin 2026-01-01T00:00:00 has no time zone"):
            await schedules.backfill("digests", datetime(2026, 1, 1), now)  # noqa: DTZ001


def _without_asyncio(url: str, token: str) -> int:
    with Client(url, token=token) as client:
        assert [one.name for one in client.schedules.list(job_type="demo.ok")] == [
            "digests", "polls"
        ]  # fmt: skip
        shown = client.schedules.preview(
            cron="30 2 * * *",
            zone="Europe/Berlin",
            after=datetime(2026, 3, 27, tzinfo=UTC),
            count=3,
        )
        assert [tick.isoformat() for tick in shown.ticks] == [
            "2026-03-27T02:30:00+01:00", "2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00"
        ]  # fmt: skip
        assert shown.clock_change is not None
        return client.schedules.run("polls")
