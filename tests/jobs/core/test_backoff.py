"""Delays between attempts: the arithmetic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.jobs.core.backoff import MAX_DELAY_SECONDS, Backoff

backoffs = st.builds(
    Backoff,
    base_seconds=st.floats(0, MAX_DELAY_SECONDS),
    factor=st.floats(1, 100),
    cap_seconds=st.floats(0, MAX_DELAY_SECONDS),
    jitter=st.floats(0, 1),
)
retries = st.integers(1, 1000)
spreads = st.floats(-1, 1)


def test_defaults_give_30_120_480_seconds_without_jitter() -> None:
    backoff = Backoff(jitter=0)
    assert [backoff.delay_seconds(retry) for retry in range(1, 4)] == [30.0, 120.0, 480.0]


def test_an_hour_is_the_longest_default_delay() -> None:
    backoff = Backoff(jitter=0)
    assert [backoff.delay_seconds(retry) for retry in (4, 5, 6, 1000)] == [1920.0] + [3600.0] * 3


def test_jitter_is_ten_percent_up_and_down() -> None:
    backoff = Backoff()
    assert backoff.delay_seconds(1, spread=-1) == pytest.approx(27)
    assert backoff.delay_seconds(1, spread=1) == pytest.approx(33)


def test_jitter_spreads_delays_over_its_whole_range() -> None:
    delays = [Backoff().delay_seconds(1) for _ in range(1000)]
    assert 27 <= min(delays) < 28
    assert 32 < max(delays) <= 33


@given(backoffs, retries, spreads)
def test_a_delay_is_never_negative_and_never_above_its_cap(
    backoff: Backoff, retry: int, spread: float
) -> None:
    assert 0 <= backoff.delay_seconds(retry, spread=spread) <= backoff.cap_seconds


@given(backoffs, retries)
def test_a_drawn_delay_stays_within_the_jitter(backoff: Backoff, retry: int) -> None:
    low = backoff.delay_seconds(retry, spread=-1)
    high = backoff.delay_seconds(retry, spread=1)
    assert low <= backoff.delay_seconds(retry) <= high


@given(backoffs, retries)
def test_delays_never_shrink_from_one_retry_to_the_next(backoff: Backoff, retry: int) -> None:
    assert backoff.delay_seconds(retry, spread=0) <= backoff.delay_seconds(retry + 1, spread=0)


@given(backoffs)
def test_a_backoff_comes_back_whole_from_its_column(backoff: Backoff) -> None:
    assert Backoff.from_json(dict(backoff.to_json())) == backoff


def test_unknown_keys_of_a_newer_version_are_passed_over() -> None:
    assert Backoff.from_json({"base_seconds": 5, "shape": "fibonacci"}) == Backoff(base_seconds=5)


@pytest.mark.parametrize("field", ["base_seconds", "factor", "cap_seconds", "jitter"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, MAX_DELAY_SECONDS + 1])
def test_a_field_out_of_range_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=field) as caught:
        Backoff(**{field: value})
    assert caught.value.field == f"backoff.{field}"


def test_retries_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        Backoff().delay_seconds(0)
