"""Durations in buckets: none lost, and percentiles within their stated error."""

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.jobs.core.histogram import (
    BOUNDS,
    ERROR_FACTOR,
    LAST_BUCKET,
    SHORTEST_SECONDS,
    bucket_of,
    percentile,
)

SECONDS = st.floats(min_value=-10.0, max_value=90_000.0)


def test_bounds_reach_from_a_millisecond_to_over_a_day() -> None:
    assert BOUNDS[0] == SHORTEST_SECONDS
    assert BOUNDS[-1] > 86_400
    assert LAST_BUCKET == 80


def test_what_is_odd_falls_into_the_first_or_the_last_bucket() -> None:
    assert bucket_of(-5.0) == bucket_of(0.0) == bucket_of(SHORTEST_SECONDS) == 0
    assert bucket_of(math.inf) == bucket_of(1e9) == LAST_BUCKET


@given(st.lists(SECONDS, min_size=1, max_size=200), st.sampled_from((0.0, 0.5, 0.95, 0.99, 1.0)))
def test_a_percentile_is_within_its_error_of_the_true_one(
    durations: list[float], share: float
) -> None:
    found = percentile(Counter(map(bucket_of, durations)), share)
    rank = max(1, math.ceil(share * len(durations)))
    true = max(0.0, sorted(durations)[rank - 1])
    assert found is not None
    assert found >= 0
    if true > SHORTEST_SECONDS:
        assert true / ERROR_FACTOR * 0.999 <= found <= true * ERROR_FACTOR * 1.001
    else:
        assert found <= SHORTEST_SECONDS


def test_nothing_counted_has_no_percentile() -> None:
    assert percentile({}, 0.5) is None
