"""Without asyncio. Made of `async_schedules.py`: change that, and run `make docs`."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Unpack

from finmind_client import schedule_calls as calls
from finmind_client.schedule_models import (
    Backfilled,
    NewSchedule,
    Overlap,
    Preview,
    Schedule,
    ScheduleOptions,
    Tick,
    TickOutcome,
)

if TYPE_CHECKING:
    from finmind_client.client import Client


class Schedules:
    """Rules that enqueue a job at each tick. To change them needs `schedules:write`."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(
        self,
        name: str,
        job_type: str,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Schedule:
        """Make a schedule; its first tick is the next one after now.

        Args:
            name: what it is called, unlike every other.
            job_type: the type of the jobs that it enqueues.
            payload: theirs, a JSON object of 16 KB at most.
            options: the other members of `NewSchedule`, by name: `cron="0 6 * * *"`, `zone="Europe/Berlin"`.

        Raises:
            Conflict: the name is taken, or there are `MAX_SCHEDULES`.
            InvalidInput: a value breaks a rule; the error names it.
        """
        made = NewSchedule(name, job_type, payload or {}, **options)
        return self._client.send(calls.create(made))

    def list(
        self, *, job_type: str | None = None, paused: bool | None = None, page_size: int = 50
    ) -> Iterator[Schedule]:
        """The schedules that match, by name, page by page."""
        cursor: str | None = None
        while True:
            page = self._client.send(
                calls.page(job_type=job_type, paused=paused, cursor=cursor, limit=page_size)
            )
            for schedule in page.schedules:
                yield schedule
            cursor = page.next_cursor
            if cursor is None:
                return

    def get(self, name: str) -> Schedule:
        """Read a schedule.

        Raises:
            NotFound: there is none that the caller may read.
        """
        return self._client.send(calls.get(name))

    def change(self, name: str, **changes: Any) -> Schedule:
        """Change a schedule: what is left out stays, `reason` is for the audit log.

        Raises:
            NotFound: there is none of the caller's.
            InvalidInput: a value breaks a rule, or nothing is to be changed.
        """
        return self._client.send(calls.change(name, changes))

    def delete(self, name: str, *, reason: str | None = None) -> None:
        """Delete a schedule; the jobs that it has enqueued stay."""
        self._client.send(calls.delete(name, reason=reason))

    def pause(self, *names: str, reason: str | None = None) -> None:
        """Pause schedules, all or none: ticks that come meanwhile are not made up for."""
        self._client.send(calls.set_paused(names, "pause", reason=reason))

    def resume(self, *names: str, reason: str | None = None) -> None:
        """Resume schedules, all or none, from the next tick after now."""
        self._client.send(calls.set_paused(names, "resume", reason=reason))

    def release(self, name: str, *, reason: str | None = None) -> Schedule:
        """Give a schedule that was changed by hand back to its code.

        Raises:
            Conflict: no code defines it.
        """
        return self._client.send(calls.release(name, reason=reason))

    def run(self, name: str, *, reason: str | None = None) -> int:
        """Run a schedule now, also while it is paused; the id of its job."""
        return self._client.send(calls.run(name, reason=reason))

    def backfill(
        self,
        name: str,
        begin: datetime,
        until: datetime,
        *,
        overlap: Overlap | None = None,
        reason: str | None = None,
    ) -> Backfilled:
        """Run each tick from `begin` to before `until` (again), 1,000 at most.

        Args:
            name: of the schedule.
            begin: the first moment.
            until: the moment after the last, not in the future.
            overlap: beside runs before it; by default one after the other.
            reason: for the audit log and the ledger.

        Raises:
            InvalidInput: the range holds no tick, too many, or is not over.
            ValueError: a moment has no time zone; nothing was sent.
        """
        call = calls.backfill(name, begin, until, overlap=overlap, reason=reason)
        return self._client.send(call)

    def preview(
        self,
        *,
        cron: str | None = None,
        every_seconds: float | None = None,
        zone: str | None = None,
        after: datetime | None = None,
        count: int = 5,
    ) -> Preview:
        """The next ticks of a rule, by the clock of its zone, and the next change of that clock.

        Raises:
            InvalidInput: it is no rule, or has no ticks.
        """
        return self._client.send(
            calls.preview(
                cron=cron, every_seconds=every_seconds, zone=zone, after=after, count=count
            )
        )

    def ticks(
        self, name: str, *, outcome: TickOutcome | None = None, page_size: int = 50
    ) -> Iterator[Tick]:
        """What became of a schedule's ticks, newest first, page by page."""
        cursor: str | None = None
        while True:
            page = self._client.send(
                calls.ticks(name, outcome=outcome, cursor=cursor, limit=page_size)
            )
            for tick in page.ticks:
                yield tick
            cursor = page.next_cursor
            if cursor is None:
                return
