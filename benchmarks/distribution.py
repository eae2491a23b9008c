"""Exact percentiles of waits: every wait is kept (8 bytes each), so nothing is rounded."""

import math
from collections.abc import Iterable, Sequence


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed; not a number where there is none."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def milliseconds(waits: Iterable[float], *shares: float) -> tuple[float, ...]:
    """Percentiles of waits that are in seconds."""
    ordered = sorted(waits)
    return tuple(1000 * percentile(ordered, share) for share in shares)
