"""How many jobs of a queue with a rate one process asks for."""

import pytest

from service.jobs.core.queue_limits import Rate
from service.jobs.flow import queue_rates
from service.jobs.flow.queue_rates import IN_USE_SECONDS, QueueRates
from service.jobs.store.rate_limits import Turn

HOLD = "rate:q"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(queue_rates, "time", clock)
    return clock


@pytest.fixture
def rates(clock: Clock) -> QueueRates:
    """A queue of which ten may start in a second, five at once."""
    rates = QueueRates()
    rates.read({"q": 2}, {"q": Rate(10, 1.0, 5)}, {})
    return rates


def turn(free: int | None, *, holds: bool = True, next_in: float = 0.1) -> Turn:
    return Turn(holds, free, next_in, 0.4)


def test_until_it_has_to_wait_a_process_takes_the_whole_rate_for_its_own(
    rates: QueueRates, clock: Clock
) -> None:
    assert (rates.free("q"), rates.free("other")) == (2, None)
    clock.now += 0.2
    assert rates.free("q") == 4
    for _ in range(4):
        rates.took("q")
    assert rates.free("q") == 1, "one is asked for, so that its turn is waited for"
    clock.now += 9
    assert rates.free("q") == 5


def test_once_it_had_to_wait_it_asks_for_what_the_last_look_left(
    rates: QueueRates, clock: Clock
) -> None:
    rates.held(HOLD)
    assert (rates.free("q"), rates.to_look_at()) == (0, [HOLD])
    assert rates.looked([HOLD], {HOLD: turn(3)}) == [HOLD]
    rates.took("q")
    clock.now += 0.5
    assert rates.free("q") == 2
    rates.read({"q": 5}, {"q": Rate(10, 1.0, 5)}, {})
    assert rates.free("q") == 2, "those that are held come first at the next turn"


def test_turns_are_looked_for_until_no_job_comes_for_a_second(
    rates: QueueRates, clock: Clock
) -> None:
    rates.held(HOLD)
    assert rates.looked([HOLD], {HOLD: turn(1, holds=False)}) == [], "there is none to claim"
    assert rates.next_look_at > clock.now
    assert rates.free("q") == 1
    clock.now += IN_USE_SECONDS
    rates.looked([HOLD], {HOLD: turn(1, holds=False)})
    assert rates.next_look_at == float("inf")
    clock.now += 0.2
    assert rates.free("q") == 3


def test_a_turn_that_others_took_is_left_to_them_for_as_long_as_nothing_is_lost(
    rates: QueueRates, clock: Clock
) -> None:
    rates.held(HOLD)
    rates.looked([HOLD], {HOLD: turn(1, next_in=0.0)})
    rates.found_none([HOLD])
    assert rates.next_look_at == pytest.approx(clock.now + 0.2)
    rates.looked([HOLD], {HOLD: turn(1, next_in=0.6)})
    rates.found_none([HOLD])
    assert rates.next_look_at >= clock.now + 0.6, "not before the next turn"


def test_a_rate_that_is_changed_is_looked_at_at_once(rates: QueueRates, clock: Clock) -> None:
    key = f"{HOLD}/k"
    rates.held(key)
    rates.looked([key], {key: turn(0, next_in=9.0)})
    assert rates.to_look_at() == []
    rates.read({}, {"q": Rate(10, 1.0, 5)}, {"q": Rate(1, 9.0)})
    assert rates.to_look_at() == [key]
    assert rates.looked([key], {key: turn(None)}) == [key], "it is lifted: all that it held may go"


def test_where_thousands_of_keys_hold_jobs_each_is_looked_at_more_rarely(
    rates: QueueRates, clock: Clock
) -> None:
    keys = [f"{HOLD}/{number}" for number in range(5000)]
    for key in keys:
        rates.held(key)
    looked: list[str] = []
    while due := rates.to_look_at():
        assert len(due) <= 1000
        rates.looked(due, {key: turn(0, next_in=60.0) for key in due})
        looked += due
    assert sorted(looked) == sorted(keys)
    assert clock.now + 4 < rates.next_look_at <= clock.now + 6
    rates.looked(keys, {})
    assert rates.next_look_at == float("inf"), "none of them holds any more"
