"""The gauges of what ended lately, which the maintenance leader sets and nobody else."""

import math
from collections.abc import Mapping

from service.observability.metrics import (
    FAILURE_SHARE,
    RECENT_ATTEMPTS,
    RECENT_RUN_TIME,
    RECENT_START_DELAY,
)


def set_rate_gauges(
    attempts: Mapping[str, int],
    *,
    failure_share: float | None,
    start_delay: Mapping[str, float],
    run_time: Mapping[str, float],
) -> None:
    """Show these figures alone.

    Args:
        attempts: how many ended, by outcome.
        failure_share: the share of those that failed; None: none ended.
        start_delay: seconds by quantile; empty: none started.
        run_time: the same of handlers.
    """
    FAILURE_SHARE.set(math.nan if failure_share is None else failure_share)
    for gauge, values in (
        (RECENT_ATTEMPTS, attempts),
        (RECENT_START_DELAY, start_delay),
        (RECENT_RUN_TIME, run_time),
    ):
        gauge.clear()
        for label, value in values.items():
            gauge.labels(label).set(value)


def clear_rate_gauges() -> None:
    """Show none: only the leader's figures are current."""
    set_rate_gauges({}, failure_share=None, start_delay={}, run_time={})
