"""Durations counted in buckets that grow by a fixed factor, and percentiles out of the counts."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

BUCKETS_PER_DECADE: Final = 10
"""Each bound is 10^(1/10), or 1.26, times the one before: 1, 1.26, 1.58, 2, 2.5, 3.2, 4, 5, 6.3, 8 ms."""

SHORTEST_SECONDS: Final = 0.001
DECADES: Final = 8
"""From 1 ms to 100,000 s: the longest timeout of a handler is a day, 86,400 s."""

BOUNDS: Final = tuple(
    SHORTEST_SECONDS * 10 ** (number / BUCKETS_PER_DECADE)
    for number in range(DECADES * BUCKETS_PER_DECADE + 1)
)
"""Upper bounds in seconds: bucket n holds what took longer than bound n-1 and up to bound n. Shorter than
1 ms is bucket 0; longer than the last bound is the last bucket. Kept counts hold these numbers, so that
the bounds must not change without the counts."""

LAST_BUCKET: Final = len(BOUNDS) - 1
_UPPER: Final = BOUNDS[:-1]

ERROR_FACTOR: Final = BOUNDS[1] / BOUNDS[0]
"""A percentile is off by less than this factor, since the true one is in the same bucket; by up to 1 ms in
the first bucket."""


def bucket_of(seconds: float) -> int:
    """The number of the bucket that holds this duration; a negative one counts as 0."""
    return bisect_left(_UPPER, seconds)


def timing_of(delay_seconds: float, run_seconds: float) -> int:
    """Both buckets of one attempt in one small number: the settle sends and sums one array for them.

    `timing / 128` is the bucket of the start delay, `timing % 128` that of the run time.
    """
    return bisect_left(_UPPER, delay_seconds) << 7 | bisect_left(_UPPER, run_seconds)


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration in seconds that `share` of those counted did not exceed; None where none was.

    Interpolates by the logarithm within the bucket, as if its durations were spread evenly over it.

    Args:
        counts: how many durations each bucket holds.
        share: between 0 and 1; 0.95 for the 95th percentile.
    """
    below, total = 0, sum(counts.values())
    rank = share * total
    for bucket in sorted(counts):
        count = counts[bucket]
        if count and below + count >= rank:
            return _within(bucket, (rank - below) / count)
        below += count
    return None


def _within(bucket: int, part: float) -> float:
    if bucket == 0:
        return SHORTEST_SECONDS * part
    low, high = BOUNDS[bucket - 1], BOUNDS[bucket]
    return float(low * (high / low) ** part)
