"""What workers tell of jobs that go on: how far they are, and what they log."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from service.auth.principal import KeyLimits
from service.db.connection import Link
from service.jobs import store
from service.jobs.core.claimed_job import Lease
from service.jobs.core.failures import clean_text
from service.jobs.core.log_line import LogLine
from service.jobs.handlers.context import progress_text
from service.jobs.handlers.job_log import MAX_MESSAGE_CHARS, encoded_fields, full_line
from service.jobs.notify.changes import Changes
from service.jobs.store.leased_jobs import LeasedJob
from service.observability.metrics import JOB_LOG_LINES, REMOTE_ANSWERS
from service.remote.outcomes import may_have
from service.settings import Settings

NOTED: Final = "recorded"
LOST: Final = "lease_lost"


class Told(NamedTuple):
    """One line as a worker tells it."""

    line: int
    level: str
    message: str
    fields: Mapping[str, object] | None
    at: datetime | None


class Noted(NamedTuple):
    """What became of it."""

    outcome: str
    full: bool = False
    """Whether the attempt has logged all that is kept."""


class Notes:
    """Writes progress and log lines of jobs whose leases hold."""

    def __init__(self, settings: Settings, *, link: Link, changes: Changes) -> None:
        self._settings = settings
        self._link = link
        self._changes = changes

    async def progress(
        self,
        progress: Mapping[Lease, tuple[float, str]],
        *,
        limits: KeyLimits | None,
        deadline: float,
    ) -> dict[Lease, Noted]:
        """Record how far jobs are: a fraction and a few words each."""
        async with asyncio.timeout_at(deadline):
            mine = await self._find(progress, limits)
            texts = {lease: progress_text(*progress[lease]) for lease in mine}
            held = await store.progress.write(self._link, texts) if texts else set()
        return self._answer("progress", progress, held, ())

    async def log(
        self,
        told: Mapping[Lease, Sequence[Told]],
        *,
        limits: KeyLimits | None,
        deadline: float,
    ) -> dict[Lease, Noted]:
        """Keep lines, as many of each attempt as are kept. One that is sent again is kept once."""
        async with asyncio.timeout_at(deadline):
            mine = await self._find(told, limits)
            sizes = await store.job_logs.sizes(self._link, list(mine)) if mine else {}
            lines: list[LogLine] = []
            full: set[Lease] = set()
            for lease, leased in mine.items():
                kept, is_full = self._kept(lease, leased, told[lease], sizes.get(lease, 0))
                lines += kept
                if is_full:
                    full.add(lease)
            if lines:
                await store.job_logs.write(self._link, lines)
                JOB_LOG_LINES.labels("written").inc(len(lines))
        return self._answer("log", told, mine, full)

    async def _find(
        self, leases: Collection[Lease], limits: KeyLimits | None
    ) -> dict[Lease, LeasedJob]:
        found = await store.leased_jobs.running(self._link, leases)
        return {
            lease: one
            for lease, one in found.items()
            if may_have(limits, one.job.job_type, one.job.queue)
        }

    def _kept(
        self, lease: Lease, leased: LeasedJob, told: Sequence[Told], size: int
    ) -> tuple[list[LogLine], bool]:
        """The lines of one attempt that are kept, and whether it has logged all that is."""
        kept: list[LogLine] = []
        attempt, now = leased.job.attempt, datetime.now(UTC)
        for one in sorted(told, key=lambda line: line.line):
            line = LogLine(
                *lease,
                one.line,
                attempt,
                one.at or now,
                one.level,
                clean_text(one.message, MAX_MESSAGE_CHARS),
                encoded_fields(one.fields or {}),
            )
            size += line.size
            if one.line > self._settings.job_log_lines or size > self._settings.job_log_bytes:
                number = min(one.line, self._settings.job_log_lines + 1)
                return [*kept, full_line(*lease, number, attempt)], True
            kept.append(line)
        return kept, False

    def _answer(
        self, call: str, asked: Collection[Lease], held: Collection[Lease], full: Collection[Lease]
    ) -> dict[Lease, Noted]:
        answers = {
            lease: Noted(NOTED, lease in full) if lease in held else Noted(LOST) for lease in asked
        }
        for one in answers.values():
            REMOTE_ANSWERS.labels(call, one.outcome).inc()
        if held:
            self._changes.happened(job_id for job_id, _ in held)
        return answers
