"""The queues as operators see them: what waits, runs and failed, who serves, what is set for them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import schema_of
from service.jobs import store
from service.jobs.core.lane import MAX_LANES, LaneHead
from service.jobs.core.queue_limits import QueueLimits
from service.jobs.store.queue_counts import TypeCounts
from service.jobs.store.queues import NOTHING_SET, Pause, QueueRow

MAX_QUEUES: Final = 1000
"""Queues that one list shows: names come from clients."""

MAX_COUNTED: Final = 20_000
"""Live jobs that one list counts, of all lanes together: some tens of milliseconds of work."""

MIN_COUNTED: Final = 100
"""At least so many of each lane."""

MAX_TYPES: Final = 200
"""Job types of one queue that are shown."""

_EVERY: Final = "*"


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue at one moment."""

    name: str
    settings: QueueRow
    """What is set for it."""
    due: int
    held: int
    """PENDING jobs that wait for a permit, a rate or other jobs."""
    running: int
    exact: bool
    """Whether `due`, `held` and `running` are all there are; if not, there are at least so many."""
    oldest_due_seconds: float | None
    dead: int
    """FAILED jobs and dead letters."""
    workers: int
    """Live workers that serve it."""
    drained: bool
    """Whether it is certain that nothing of it runs, and nothing will before it is resumed."""

    @property
    def pause(self) -> Pause | None:
        """Its pause; None where jobs of it are started."""
        return self.settings.pause

    @property
    def paused(self) -> bool:
        """Whether no job of it is started."""
        return self.settings.pause is not None

    @property
    def limits(self) -> QueueLimits:
        """Its limits over all processes."""
        return self.settings.limits

    @property
    def permits_used(self) -> int | None:
        """RUNNING jobs that count under its `max_running`; None where it has none."""
        return self.settings.permits_used if self.limits.max_running is not None else None


@dataclass(frozen=True, slots=True)
class QueueList:
    """Queues by name; not `complete` where there are more."""

    queues: list[QueueState]
    complete: bool


async def list_queues(session: AsyncSession, *, cap: int, alive_seconds: float) -> QueueList:
    """The queues that hold jobs, are set, are served by name, or in which jobs have ended.

    Args:
        session: read in its transaction, the rest of which is planned by the order of indexes.
        cap: limit on the live jobs counted in each lane; fewer are counted where there are many lanes.
        alive_seconds: a worker seen within this time counts as alive.
    """
    reading = await _read(session, alive_seconds)
    heads = await store.queue_counts.heads(session, limit=MAX_LANES)
    dead = await store.queue_counts.dead(session, limit=MAX_QUEUES + 1)
    states = await _states(session, reading, heads, dead, cap=cap)
    known = dict.fromkeys([*reading.rows, *states, *reading.served, *dead])
    names = [name for name in known if name != _EVERY]
    shown = sorted(names[:MAX_QUEUES])
    return QueueList(
        [states.get(name) or reading.state(name, dead.get(name, 0)) for name in shown],
        complete=len(names) <= MAX_QUEUES and len(heads) < MAX_LANES,
    )


async def get_queue(
    session: AsyncSession, name: str, *, cap: int, alive_seconds: float
) -> QueueState:
    """One queue, whether or not anybody has heard of it; the arguments are those of `list_queues`."""
    reading = await _read(session, alive_seconds, name=name)
    heads = await store.queue_counts.heads_of(session, name)
    dead = await store.queue_counts.dead(session, limit=1, queue=name)
    states = await _states(session, reading, heads, dead, cap=cap)
    state = states.get(name) or reading.state(name, dead.get(name, 0))
    if state.drained or not state.settings.pause_is_in_force:
        return state
    # More may be due than were counted, and what a dead worker left behind is RUNNING until the pause ends.
    return replace(state, drained=not await store.queue_counts.runs(session, name))


async def types_of(session: AsyncSession, name: str, *, cap: int) -> list[TypeCounts]:
    """The job types of a queue, those with most failures first, up to `MAX_TYPES`.

    Finished jobs come from the kept counts; of the live ones the first `cap` are counted.
    """
    return await store.queue_counts.types(session, name, cap=cap, limit=MAX_TYPES)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is known of queues apart from their jobs."""

    rows: dict[str, QueueRow]
    served: dict[str, int]

    def state(
        self,
        name: str,
        dead: int,
        *,
        live: store.queue_counts.LiveCount | None = None,
        held: int = 0,
        exact: bool = True,
    ) -> QueueState:
        settings = self.rows.get(name, NOTHING_SET)
        running = live.running if live else 0
        return QueueState(
            name=name,
            settings=settings,
            due=live.due if live else 0,
            held=held,
            running=running,
            exact=exact,
            oldest_due_seconds=live.oldest_due_seconds if live and live.due else None,
            dead=dead,
            workers=self.served.get(name, 0) + self.served.get(_EVERY, 0),
            drained=settings.pause_is_in_force and exact and not running,
        )


async def _read(
    session: AsyncSession, alive_seconds: float, *, name: str | None = None
) -> _Reading:
    await schema_of(session)
    await store.listing.plan_by_index(session)
    return _Reading(
        await store.queues.rows(session, name=name),
        await store.queue_counts.served_by(session, alive_seconds=alive_seconds, limit=MAX_QUEUES),
    )


async def _states(
    session: AsyncSession,
    reading: _Reading,
    heads: Sequence[LaneHead],
    dead: dict[str, int],
    *,
    cap: int,
) -> dict[str, QueueState]:
    if not heads:
        return {}
    counted = min(cap, max(MAX_COUNTED // len(heads), MIN_COUNTED))
    live = await store.queue_counts.live(session, heads, cap=counted)
    held = await store.queue_counts.held(session, heads, cap=counted)
    return {
        name: reading.state(
            name,
            dead.get(name, 0),
            live=count,
            held=held.get(name, 0),
            exact=max(count.due + count.running, held.get(name, 0)) < counted,
        )
        for name, count in live.items()
    }
