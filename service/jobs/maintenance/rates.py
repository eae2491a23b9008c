"""Fold the counts of what ended, to which every settle appends, and drop what is over its retention."""

import time
from dataclasses import asdict
from typing import Final

import asyncpg

from service.db.connection import Link
from service.jobs import store
from service.jobs.batch_limit import BatchLimit
from service.jobs.read.rates import Durations, Rates, rates_by_key
from service.observability.rate_gauges import set_rate_gauges
from service.settings import Settings

BATCH: Final = 50_000
"""Appended rows that one statement folds: a third of a second with a thousand pairs of queue and type, whose
rows in `job_rates` are most of the work, and seconds where each row is of another minute and pair. Halved
when a statement fails."""

MAX_BATCHES: Final = 4
"""Limit on what one round folds, in batches."""

ROUND_SECONDS: Final = 1.0
"""After so long a round begins no further batch: the leader's other duties wait for it."""

FOLD_SHARE: Final = 0.05
"""Share of the time that folding may take, unless more is appended than that folds."""

MAX_FOLD_PAUSE_SECONDS: Final = 60.0

GAUGE_MINUTES: Final = 5
"""Whole minutes whose figures the gauges show, with the current one."""

DROP_BATCH: Final = 5000
MAX_DROP_BATCHES: Final = 50
SCOPES: Final = ("total", "queue", "pair")


class KeptRates:
    """The counts kept by minute, hour and day."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._pairs = settings.counted_pairs
        self._retentions = (
            ("minute", settings.minute_counts_hours),
            ("hour", settings.hour_counts_days * 24),
            ("day", settings.day_counts_days * 24),
        )
        self._limit = BatchLimit(BATCH, seconds=settings.database_command_timeout_seconds)
        self._next_fold = 0.0

    async def fold(self) -> None:
        """Fold what was appended; less often where that is slow."""
        began = time.monotonic()
        if began < self._next_fold:
            return
        for _ in range(MAX_BATCHES):
            if await self._fold_batch():
                if time.monotonic() - began > ROUND_SECONDS:
                    return
            else:
                pause = min((time.monotonic() - began) / FOLD_SHARE, MAX_FOLD_PAUSE_SECONDS)
                self._next_fold = began + pause
                return

    async def _fold_batch(self) -> bool:
        """Fold once; whether there may be more."""
        began, limit = time.monotonic(), self._limit.rows
        try:
            folded = await store.rates.fold(self._link, limit=limit, pairs=self._pairs)
        except (asyncpg.PostgresError, TimeoutError):
            self._limit.failed(limit)
            raise
        self._limit.succeeded(time.monotonic() - began)
        return folded >= limit

    async def show(self) -> None:
        """Set the gauges of what ended lately, for alerts."""
        rows = await store.rates.recent(self._link, minutes=GAUGE_MINUTES)
        found = next(iter(rates_by_key(rows).values()), Rates())
        set_rate_gauges(
            asdict(found.counts),
            failure_share=found.counts.failure_share,
            start_delay=_quantiles(found.start_delay),
            run_time=_quantiles(found.run_time),
        )

    async def drop_old(self) -> None:
        """Drop counts that are over the retention of their step."""
        for step, hours in self._retentions:
            for scope in SCOPES:
                await self._drop(step, scope, hours)

    async def _drop(self, step: str, scope: str, hours: int) -> None:
        for _ in range(MAX_DROP_BATCHES):
            dropped = await store.rates.drop(
                self._link, step=step, scope=scope, hours=hours, limit=DROP_BATCH
            )
            if dropped < DROP_BATCH:
                return


def _quantiles(found: Durations | None) -> dict[str, float]:
    return {} if found is None else {"0.5": found.p50, "0.95": found.p95, "0.99": found.p99}
