"""Schedules that code defines: made and changed by its application's start, and by no other's."""

from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.db.engine import Database
from service.errors import ConfigurationError
from service.jobs import Registry
from service.jobs.core.job_types import policies
from service.schedules import managing, repository
from service.schedules.declared import Declarations
from service.schedules.declaring import release
from service.schedules.model import Overlap, Schedule
from tests.schedules.code import Define, start


def code(*names: str, cron: str = "0 6 * * *", **values: Any) -> Define:
    """Code with a schedule of each name."""

    def define(declarations: Declarations, handlers: Registry) -> None:
        for name in names:
            rule = declarations.schedule(cron, zone="Europe/Berlin", name=name, **values)

            @rule
            @handlers.handler(f"job-{name}")
            async def handle(_: Any) -> None: ...

    return define


async def stored(database: Database) -> dict[str, Schedule]:
    async with database.sessions() as session:
        return {one.name: one for one in await repository.page(session, limit=100)}


async def test_two_applications_on_one_database_keep_each_others_schedules(
    database: Database,
) -> None:
    await start(database, code("a", "b"), owner="one")
    await start(database, code("c"), owner="two")
    assert {name: one.owner for name, one in (await stored(database)).items()} == {
        "a": "one", "b": "one", "c": "two",
    }  # fmt: skip
    await start(database, code("a"), owner="one")  # the decorator of b is gone
    found = await stored(database)
    assert {name: one.paused_by for name, one in found.items()} == {
        "a": None,
        "b": "code",
        "c": None,
    }
    await start(database, code("a", "b"), owner="one")
    assert (await stored(database))["b"].next_tick_at is not None
    with capture_logs() as logs:
        await start(database, code("a", cron="@hourly"), owner="two")
    assert [(log["event"], log["whose"]) for log in logs if "whose" in log] == [
        ("schedule_name_taken", "of one")
    ]
    assert (await stored(database))["a"] == found["a"]


async def test_applications_without_a_name_pause_nothing(database: Database) -> None:
    await start(database, code("a"))
    await start(database, code("b"))
    assert [one.is_paused for one in (await stored(database)).values()] == [False, False]


async def test_a_deploy_changes_what_code_defines_but_not_what_people_changed_or_paused(
    database: Database,
) -> None:
    await start(database, code("a", "b"))
    first = await stored(database)
    await start(database, code("a", "b"))
    assert await stored(database) == first
    async with database.sessions.begin() as session:
        (a,) = await managing.lock(session, ["a"])
        async with session.begin_nested():
            await managing.pause(session, ["b"], reason="holiday")
        changed = replace(a.definition, overlap=Overlap.ALLOW)
        await managing.change(session, a, changed)
    await start(database, code("a", "b", cron="0 7 * * *"))
    found = await stored(database)
    assert found["a"].definition.overlap is Overlap.ALLOW
    assert (found["a"].definition.timing.cron, found["a"].pinned_by) == ("0 6 * * *", "python")
    assert (found["b"].definition.timing.cron, found["b"].pause_reason) == ("0 7 * * *", "holiday")
    async with database.sessions.begin() as session:
        (a,) = await managing.lock(session, ["a"])
        released = await release(session, a)
    assert released.definition.timing.cron == "0 7 * * *"
    assert (released.definition.overlap, released.pinned_by) == (Overlap.SKIP, None)
    assert released.next_tick_at != found["a"].next_tick_at


def test_the_decorator_stands_above_or_below_and_names_its_type() -> None:
    declarations, handlers = Declarations(), Registry()

    @handlers.handler("below", queue="slow")
    @declarations.schedule(every_seconds=5.0, name="other", payload={"n": 1})
    @declarations.schedule("@daily")
    async def handle(_: Any) -> None: ...

    found = declarations.definitions(handlers)
    assert {name: (one.job_type, one.queue, one.timing.words) for name, one in found.items()} == {
        "below": ("below", "slow", "@daily UTC"),
        "other": ("below", "slow", "every 5 s"),
    }


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cron": "0 6 * * * *"}, "@schedule: cron is '0 6 * * * *': a sixth field"),
        ({"cron": "@daily", "overlap": "never"}, "'never' is not a valid Overlap"),
        ({"cron": "@daily", "priority": 12}, "priority is 12: expected 0"),
        ({"cron": "@daily", "name": "no spaces"}, "name is 'no spaces'"),
        ({"cron": "@daily", "jitter_seconds": 1e5}, "jitter_seconds is 100000.0"),
    ],
)
def test_a_declaration_that_cannot_run_stops_the_start_in_words(
    values: dict[str, Any], says: str
) -> None:
    declarations, handlers = Declarations(), Registry()

    def define() -> None:
        @declarations.schedule(**values)
        @handlers.handler("t")
        async def handle(_: Any) -> None: ...

        declarations.definitions(handlers)

    with pytest.raises(ConfigurationError) as refused:
        define()
    assert says in refused.value.detail


def test_what_jobs_keep_encrypted_is_refused_in_a_schedule() -> None:
    declarations, handlers = Declarations(), Registry(policies)

    @declarations.schedule("@daily", payload={"customer": {"card": "4711"}, "amount": 7})
    @handlers.handler("charge_monthly", encrypt=["customer.card", "pin"])
    async def handle(_: Any) -> None: ...

    try:
        with pytest.raises(ConfigurationError, match=r"payload holds customer\.card, which jobs"):
            declarations.definitions(handlers)
    finally:
        del policies["charge_monthly"]


def test_a_declaration_needs_a_handler_and_a_name_of_its_own() -> None:
    declarations, handlers = Declarations(), Registry()

    @declarations.schedule("@daily")
    async def bare(_: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="the function handles no job type: write"):
        declarations.definitions(handlers)
    handlers.handler("t")(bare)
    declarations.schedule("@hourly")(bare)
    with pytest.raises(ConfigurationError, match=r"'t' is defined twice, at .*bare and at"):
        declarations.definitions(handlers)
