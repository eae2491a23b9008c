"""What becomes of due ticks, by their lateness; and of runs beside others. Without a database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.jobs.core.job import JobId
from service.schedules.deciding import MAX_FIRED, decide
from service.schedules.model import CatchUp, Definition, Overlap, Schedule, ScheduleId
from service.schedules.overlap import MAX_LIVE, Skip, Start, beside
from service.schedules.timing import Timing, jitter_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def schedule(
    next_tick_at: datetime | None, *, every: float = 60, jitter: float = 0, **values: object
) -> Schedule:
    definition = Definition(
        timing=Timing(every_seconds=every), job_type="t", payload={}, queue="q",
        jitter_seconds=jitter, **values,  # type: ignore[arg-type]
    )  # fmt: skip
    return Schedule(
        id=ScheduleId(1), name="a", definition=definition, owner=None, created_by=None,
        created_at=NOON, changed_at=NOON, pinned_by=None, declared=None, paused_at=None,
        paused_by=None, pause_reason=None, last_tick_at=None, next_tick_at=next_tick_at,
        due_at=next_tick_at, failures=0,
    )  # fmt: skip


def minutes(*, ago: float) -> datetime:
    return NOON - timedelta(minutes=ago)


def test_a_tick_in_time_is_fired_and_the_next_comes_after_it() -> None:
    decided = decide(schedule(NOON), NOON + timedelta(seconds=0.2))
    assert [fire.planned_at for fire in decided.fires] == [NOON]
    assert decided.missed == []
    assert (decided.last_tick_at, decided.next_tick_at) == (NOON, NOON + timedelta(minutes=1))


@pytest.mark.parametrize(
    ("catch_up", "window", "down", "fired", "missed"),
    [
        ("one", 3600, 5, [0], 5),  # the tick of now, in time, runs in place of all others
        ("one", 3600, 4.5, [0.5], 4),  # the newest of those that were missed runs late
        ("one", 20, 4.5, [], 5),  # … unless it is too old
        ("all", 3600, 5, [5, 4, 3, 2, 1, 0], 0),
        ("all", 150, 5, [2, 1, 0], 3),
        ("none", 3600, 5, [0], 5),
        ("none", 3600, 4.5, [], 5),
        ("one", 3600, 120, [0], 120),
        ("all", 3600, 120, list(range(60, -1, -1)), 60),
    ],
)
def test_what_was_missed_is_caught_up_within_the_window(
    catch_up: str, window: float, down: float, fired: list[float], missed: int
) -> None:
    """`down`: minutes since the first tick that nobody acted on."""
    first = minutes(ago=5) if down == 4.5 else minutes(ago=down)
    now = NOON - timedelta(seconds=30) if down == 4.5 else NOON
    found = decide(schedule(first, catch_up=CatchUp(catch_up), catch_up_seconds=window), now)
    ago = [(now - fire.planned_at).total_seconds() / 60 for fire in found.fires]
    assert ago == fired
    assert sum(one.ticks for one in found.missed) == missed
    assert found.next_tick_at == (NOON if down == 4.5 else NOON + timedelta(minutes=1))


def test_each_tick_is_decided_once_over_any_number_of_looks() -> None:
    """Also where one look may not fire as many as were missed, and where the clock steps back."""
    now, one = NOON, schedule(minutes(ago=250), catch_up=CatchUp.ALL, catch_up_seconds=86_400)
    fired: list[datetime] = []
    for step in (0, 0, -3600, 0, 0, 30, 60):
        decided = decide(one, now + timedelta(seconds=step))
        assert len(decided.fires) <= MAX_FIRED
        fired += [fire.planned_at for fire in decided.fires]
        one = replace(one, next_tick_at=decided.next_tick_at, due_at=decided.due_at)
    assert fired == [minutes(ago=n) for n in range(250, -2, -1)]


def test_a_year_of_missed_seconds_is_passed_in_a_few_looks() -> None:
    one, looks = schedule(NOON - timedelta(days=365), every=1, catch_up=CatchUp.NONE), 0
    while one.next_tick_at is not None and one.next_tick_at <= NOON:
        decided = decide(one, NOON)
        one, looks = replace(one, next_tick_at=decided.next_tick_at), looks + 1
    assert looks <= 3
    assert len(decided.fires) <= 11


def test_jitter_delays_a_tick_and_lateness_counts_from_there() -> None:
    one = schedule(NOON, jitter=50)
    due = NOON + jitter_of("a", NOON, 50)
    assert decide(one, due - timedelta(microseconds=1)).fires == []
    (fire,) = decide(one, due + timedelta(seconds=9)).fires
    assert (fire.planned_at, fire.due_at, fire.reason) == (NOON, due, None)


@pytest.mark.parametrize(
    ("overlap", "live", "expected"),
    [
        (Overlap.SKIP, [], Start()),
        (Overlap.SKIP, [7], Skip("job 7 had not ended, and overlap is skip")),
        (Overlap.ALLOW, [7, 8], Start()),
        (Overlap.QUEUE_ONE, [7], Start(after=(JobId(7),))),
        (Overlap.QUEUE_ONE, [7, 8], Skip("job 8 was waiting already, and overlap is queue_one")),
        (Overlap.QUEUE_ALL, [7, 8], Start(after=(JobId(7), JobId(8)))),
        (Overlap.CANCEL_OTHER, [7], Start(after=(JobId(7),), cancel=(JobId(7),))),
    ],
)  # fmt: skip
def test_a_run_beside_others_does_what_its_policy_says(
    overlap: Overlap, live: list[JobId], expected: Start | Skip
) -> None:
    assert beside(overlap, live) == expected


def test_the_runs_that_wait_for_each_other_are_bounded() -> None:
    live = [JobId(n) for n in range(MAX_LIVE)]
    assert isinstance(beside(Overlap.QUEUE_ALL, live), Skip)
    assert beside(Overlap.QUEUE_ALL, live[:-1]) == Start(after=tuple(live[-11:-1]))
