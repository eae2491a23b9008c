"""What the checker records: events, claims and runs, and the faults of each process."""

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

from service.jobs import store
from service.jobs.flow.queue_settings import MAX_AGE_SECONDS
from service.jobs.store.statement import Statement
from tests.jobs import statements
from tests.jobs.statements import BY_SQL, values_of
from tests.simulation.clock import Process, VirtualLoop
from tests.simulation.invariants import Run


def _sent(*sent: Statement) -> frozenset[str]:
    """As PostgreSQL is sent them."""
    return frozenset(statement.sql for statement in sent)


HEARTBEAT: Final = _sent(store.leases.EXTEND, store.workers.WORKER_SEEN)
SETTLE: Final = _sent(
    store.settle.FINISH, store.settle.REQUEUE, store.settle.FINISH_PERMITTED,
    store.settle.REQUEUE_PERMITTED, store.settle.REQUEUE_SUSPENDED, store.settle.SETTLED_BEFORE, store.cancel.END_CANCELLED,
)  # fmt: skip
STEPS: Final = _sent(store.steps.STORE, store.steps.OF_JOB, store.steps.END_WAIT)
CLAIMS: Final = _sent(
    store.claim.CLAIM, store.claim.CLAIM_WITHIN_LIMITS, store.claim.CLAIM_ORPHANS,
    store.claim.CLAIM_BESIDE_KEYS, store.claim_by_keys.CLAIM_BY_KEYS, store.admission.CLAIM_HELD,
    store.claim_limited.CLAIM_LIMITED,
)  # fmt: skip
CLAIMING: Final = CLAIMS | _sent(
    store.lost_claims.LOST_CLAIMS, store.claim_by_keys.LOST_BY_KEYS, store.lanes.LANES, store.lanes.LANES_OF, store.lanes.RECENT_LANES,
    store.claim.WINDOW_ENDS, store.admission.ADMIT, store.admission.HOLDS,
)  # fmt: skip

KEPT_EVENTS: Final = 250

PAUSE_HOLDS_SECONDS: Final = 2.0
"""A pause is in force in every process within this time."""


class Violation(BaseException):
    """Something that must never happen did."""


@dataclass(slots=True, eq=False)
class Claim:
    """One claim of one job, as the server granted it."""

    job_id: int
    token: int
    process: Process | None
    lost_leases: int
    extended_at: float
    until: float
    """When its lease ends, by the server's clock."""
    unanswered_at: float | None = None
    """When its process saw the claim's statement fail, although it was carried out."""
    open: bool = True
    rescued: bool = False
    """Whether it took the job from a worker whose lease had ended."""
    cancelled: bool = False
    """Whether the job's cancel had been asked for: it must not run."""


@dataclass(slots=True)
class Watch:
    """What is recorded of one process."""

    process: Process
    types: list[str]
    slots: int
    """How many of its handlers may run at once."""
    claimed_at: float = 0.0
    """When it saw the answer to its last claim, or to the admission of what that brought."""
    troubles: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """When statements of each duty failed, or took long."""
    stalls: list[tuple[float, float]] = field(default_factory=list)
    ended_at: float | None = None
    """When it crashed or began to stop."""
    seen_at: float | None = None
    """When its last heartbeat arrived; None before the first, and once it has stopped."""
    reads: deque[float] = field(default_factory=lambda: deque((0.0, 0.0), maxlen=2))
    """How long its last looks took at which queues are paused."""
    reads_since: float = 0.0
    """When the last of them was sent."""
    gave_up: bool = False
    """Whether it stopped with outcomes that it could not record."""

    def stalled_since(self, since: float) -> bool:
        return self.process.frozen or any(until >= since for _, until in self.stalls)

    def troubled(self, duty: str, since: float) -> bool:
        return any(at >= since for at in self.troubles[duty])


class Ledger:
    """Everything that is recorded while a simulation runs."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._closed = False
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=KEPT_EVENTS)
        self.digest = 0
        """Of everything that happened: the same seed gives the same."""
        self.events: Counter[str] = Counter()
        """How often each event occurred: a test checks that simulations see enough of them."""
        self.claims: dict[tuple[int, int], Claim] = {}
        self.holder: dict[int, Claim] = {}
        """The newest claim of each job."""
        self.runs: dict[tuple[int, int], Run] = {}
        self.runs_of: defaultdict[int, list[Run]] = defaultdict(list)
        self.attempts: Counter[int] = Counter()
        """How many attempts of each job count, by our reckoning."""
        self.retries: dict[int, int] = {}
        """How many each job has."""
        self.timeouts: dict[int, float | None] = {}
        """Those that jobs have of their own."""
        self.failures: Counter[str] = Counter()
        """How often a process saw a statement of each name fail."""
        self.failed_alone: Counter[tuple[int, int]] = Counter()
        """How often an end that was sent alone failed, by its claim."""
        self.watches: dict[Process, Watch] = {}
        self.parents_of: defaultdict[int, dict[int, str]] = defaultdict(dict)
        """What each job waits for, and what becomes of it when that does not succeed."""
        self.let_go: set[int] = set()
        """The jobs that were held for their parents, and may run."""
        self.ends: defaultdict[int, set[str]] = defaultdict(set)
        """The statuses in which each job has ended, `DELETED` for one that was deleted."""
        self.cancel_asked: dict[int, float] = {}
        """The jobs whose cancel was accepted while they ran, and when."""
        self.paused_since: dict[str, float] = {}
        """The paused queues, and since when they have been paused."""

    @property
    def now(self) -> float:
        return self._loop.time()

    def close(self) -> None:
        """Record no more: what is left is thrown away in an order that no seed decides."""
        self._closed = True

    def note(self, *event: Any) -> None:
        """One line of the trace."""
        if self._closed:
            return
        line = (round(self.now - 1000, 4), *event)
        self.trace.append(line)
        self.digest = crc32(repr(line).encode(), self.digest)

    def violate(self, words: str) -> None:
        """End the simulation: a rule is broken."""
        if self._loop.broken is None:
            self._loop.broken = Violation(words)

    # -- statements, as their processes see them --------------------------------------------------

    def asked(self, statement: str, args: Any, process: Process, *, trouble: bool) -> None:
        """A process sends a statement, which will go well or not."""
        if trouble:
            self.trouble(process, _duty_of(statement))
        if statement == store.queues.QUEUE_SETTINGS.sql:
            self.watches[process].reads_since = self.now
        elif statement in CLAIMS and statement != store.admission.CLAIM_HELD.sql:
            values = values_of(statements.statement(BY_SQL[statement]), args)
            self._must_not_be_paused(values.get("queues") or [values["queue"]], process)

    def _must_not_be_paused(self, queues: list[str], process: Process) -> None:
        """No claim begins of a queue that has been paused for a while.

        Unless the database took so long, twice, to tell what is paused.
        """
        if min(self.watches[process].reads) > MAX_AGE_SECONDS:
            return
        for queue in set(queues) & self.paused_since.keys():
            if self.now - self.paused_since[queue] > PAUSE_HOLDS_SECONDS:
                self.violate(f"{process.name} claims of {queue}, which is paused")

    def trouble(self, process: Process, duty: str) -> None:
        """Something of this duty failed or took long."""
        known = {
            "heartbeat": "heartbeat",
            "settler": "settler",
            "requeuer": "settler",
            "steps": "steps",
        }.get(duty, "claimer")
        self.watches[process].troubles[known].append(self.now)

    def answered(self, statement: str, process: Process) -> None:
        """A process saw the answer to a statement."""
        if statement == store.queues.QUEUE_SETTINGS.sql:
            watch = self.watches[process]
            watch.reads.append(self.now - watch.reads_since)
        if statement in CLAIMS or statement == store.admission.ADMIT.sql:
            self.watches[process].claimed_at = self.now

    def failed(self, statement: str, args: Any, process: Process) -> None:
        """A process saw a statement fail."""
        if statement == store.settle.FINISH.sql:
            values = values_of(store.settle.FINISH, args)
            if len(values["ids"]) == 1:
                self.failed_alone[values["ids"][0], values["tokens"][0]] += 1
        self.note(process.name, "failed", BY_SQL.get(statement, statement[:20]))
        self.events["failed"] += 1
        self.failures[BY_SQL.get(statement, statement)] += 1
        self.trouble(process, _duty_of(statement))
        if statement in CLAIMS:
            for claim in self.claims.values():
                mine = claim.process is process and claim.unanswered_at is None
                if mine and claim.open and (claim.job_id, claim.token) not in self.runs:
                    claim.unanswered_at = self.now


def _duty_of(statement: str) -> str:
    """Whose connection a statement goes over."""
    if statement in HEARTBEAT:
        return "heartbeat"
    if statement in STEPS:
        return "steps"
    return "settler" if statement in SETTLE else "claimer"
