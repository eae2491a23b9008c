"""The streams of events that keep pages live, without a browser."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.dashboard.live import MAX_STREAMS_PER_SESSION, Live, Stream
from service.errors import Unavailable
from service.jobs import enqueue
from service.settings import Settings
from tests.dashboard.conftest import Serve
from tests.dashboard.served import Served, serving
from tests.jobs.rows import add as insert
from tests.jobs.waiting import until_true

pytestmark = pytest.mark.whole

LISTENING = text("""
SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()""")


async def next_event(lines: AsyncIterator[str]) -> str:
    async with asyncio.timeout(10):
        async for line in lines:
            if line.startswith("event: "):
                return line.removeprefix("event: ")
    return "end"


async def add(session: AsyncSession) -> None:
    async with session.begin():
        await enqueue(session, "mail")


async def count(session: AsyncSession) -> int:
    async with session.begin():
        return int(await session.scalar(LISTENING) or 0)


async def test_a_page_hears_of_jobs_that_other_processes_enqueue_run_and_end(serve: Serve) -> None:
    mine, worker = await serve(), await serve(worker=True)
    async with (
        await mine.browse("viewer") as client,
        client.stream("GET", "/dashboard/events") as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.aiter_lines()
        assert await next_event(lines) == "changed"  # it listens from now on
        began = time.monotonic()
        async with worker.database.sessions.begin() as session:
            await enqueue(session, "nobody.runs.this")
        assert await next_event(lines) == "changed"
        assert time.monotonic() - began < 2
        async with worker.database.sessions.begin() as session:
            await insert(session, job_type="send_reminder")  # by SQL: nobody is woken
        assert await next_event(lines) == "changed"  # claimed, or settled


async def test_while_no_page_is_open_a_process_without_a_worker_listens_to_nobody(
    served: Served, session: AsyncSession
) -> None:
    assert await count(session) == 0
    async with await served.browse() as client, client.stream("GET", "/dashboard/events") as answer:
        await next_event(answer.aiter_lines())
        assert await count(session) == 1


async def test_without_notifications_pages_look_every_few_seconds(serve: Serve) -> None:
    served = await serve(database_listen=False)
    async with await served.browse() as client, client.stream("GET", "/dashboard/events") as answer:
        assert await next_event(answer.aiter_lines()) == "changed"


async def test_a_page_that_showed_kept_counts_looks_again_when_they_are_old(served: Served) -> None:
    stream = served.service.live.open("session")
    events = stream.events(_always)
    await anext(events)
    began = time.monotonic()
    assert "changed" in await anext(events)
    assert time.monotonic() - began < 10  # a ping comes after 15 s
    stream.close()


async def test_many_changes_wait_as_one_event_for_a_slow_page(served: Served) -> None:
    live: Live = served.service.live
    stream = live.open("session")
    events = stream.events(_always)
    assert (await anext(events)).startswith("retry: ")
    for _ in range(1000):
        live._changed()
    assert "changed" in await anext(events)
    assert not stream.changed.is_set()
    stream.close()


async def test_events_are_a_second_apart(served: Served) -> None:
    stream = Stream(served.service.live, "session")
    events = stream.events(_always)
    await anext(events)
    stream.changed.set()
    await anext(events)
    began = time.monotonic()
    stream.changed.set()
    await anext(events)
    assert time.monotonic() - began >= 0.99


async def test_beyond_the_limit_a_page_is_told_to_look_for_itself(serve: Serve) -> None:
    served = await serve(dashboard_max_streams=1)
    async with await served.browse() as client:
        async with client.stream("GET", "/dashboard/events") as first:
            assert first.status_code == 200
            second = await client.get("/dashboard/events")
            assert second.status_code == 503
            assert second.headers["retry-after"] == "30"
            assert "DASHBOARD_MAX_STREAMS" in second.text
        await until_true(lambda: not served.service.live._streams)
        async with client.stream("GET", "/dashboard/events") as third:
            assert third.status_code == 200


async def test_the_pages_of_one_session_leave_streams_for_the_others(served: Served) -> None:
    live: Live = served.service.live
    streams = [live.open("many tabs") for _ in range(MAX_STREAMS_PER_SESSION)]
    with pytest.raises(Unavailable, match="5 pages of your session are live here"):
        live.open("many tabs")
    streams.append(live.open("another session"))
    streams[0].close()
    streams.append(live.open("many tabs"))
    for stream in streams:
        stream.close()


async def test_streams_of_a_browser_are_those_of_its_session(served: Served) -> None:
    async with await served.browse() as client, client.stream("GET", "/dashboard/events") as answer:
        assert answer.status_code == 200
        secret = client.headers["cookie"].partition("=")[2]
        assert [stream.session for stream in served.service.live._streams] == [secret]


async def test_a_stranger_gets_no_stream(served: Served) -> None:
    async with await served.browse(None) as client:
        answer = await client.get("/dashboard/events")
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/dashboard/sign-in")


async def test_a_stream_ends_with_its_session(served: Served) -> None:
    stream = Stream(served.service.live, "session")
    events = stream.events(_never, ping_seconds=0.01)
    assert [event.partition("\n")[0] async for event in events] == [
        "retry: 2000",
        "event: signed-out",
    ]


async def test_a_quiet_stream_says_that_it_lives(served: Served) -> None:
    stream = Stream(served.service.live, "session")
    events = stream.events(_always, ping_seconds=0.01)
    await anext(events)
    assert await anext(events) == "event: ping\ndata:\n\n"


async def test_open_streams_do_not_hold_up_a_stop(
    make_settings: Any, pg_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings: Settings = make_settings(
        database_url=pg_dsn, shutdown_grace_seconds=30, slow_request_seconds=0.1
    )
    async with serving(settings, worker=True) as served:
        client = await served.browse()
        async with client, client.stream("GET", "/dashboard/events") as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "retry: 2000"
            began = time.monotonic()
            served.service.stop_claiming()
            assert await next_event(lines) == "end"
    assert time.monotonic() - began < 5
    assert "/dashboard/events" not in caplog.text  # no slow request


@pytest.mark.parametrize(
    ("path", "headers", "used"),
    [
        ("/dashboard", {}, True),
        ("/dashboard", {"x-refresh": "1"}, False),
        ("/dashboard/events", {}, False),
    ],
)
async def test_what_a_page_asks_by_itself_does_not_keep_a_session_alive(
    served: Served, session: AsyncSession, path: str, headers: dict[str, str], used: bool
) -> None:
    seen = text("SELECT seen_at > now() - interval '1 minute' FROM dashboard_sessions")
    async with await served.browse() as client:
        async with session.begin():
            await session.execute(
                text("UPDATE dashboard_sessions SET seen_at = now() - interval '1 hour'")
            )
        async with client.stream("GET", path, headers=headers) as answer:
            assert answer.status_code == 200
    assert await session.scalar(seen) is used


async def test_no_stream_counts_as_a_slow_request_in_the_metrics(served: Served) -> None:
    async with await served.browse() as client:
        async with client.stream("GET", "/dashboard/events") as answer:
            await next_event(answer.aiter_lines())
            metrics = (
                await client.get("/metrics", headers={"authorization": f"Bearer {served.token()}"})
            ).text
            assert "finmind_dashboard_streams 1.0" in metrics
        assert 'handler="/dashboard/events"' not in metrics


async def _always() -> bool:
    return True


async def _never() -> bool:
    return False
