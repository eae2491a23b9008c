"""What may run, in plain Python: limits and who holds permits, pauses, and who waits for whom."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.job import LIVE, JobId, JobStatus
from tests.jobs.reference import ReferenceJob

KEY_LIMIT: Final = 2
"""How many served jobs with one key their handler allows at once."""

PARENTS: Final = "after"


@dataclass
class QueueRow:
    """What operators set for one queue."""

    max_running: int | None = None
    max_running_per_key: int | None = None
    paused: bool = False


@dataclass
class _Asked:
    job: ReferenceJob
    lease: Lease
    limits: dict[str, int]
    """By the names of the permits that it needs: that of its key, then that of its queue."""


@dataclass
class ReferenceFlow:
    """The queues, and the jobs that wait for others."""

    jobs: list[ReferenceJob]
    queues: defaultdict[str, QueueRow] = field(default_factory=lambda: defaultdict(QueueRow))
    links: dict[tuple[JobId, JobId], str] = field(default_factory=dict)
    """What becomes of a child where a parent does not succeed; those that have been met are gone."""
    told: dict[JobId, str | None] = field(default_factory=dict)
    """Ends that nobody has acted on; None: look whether the job has ended."""

    def tell(self, job_id: JobId, status: str) -> None:
        """A job that others wait for ended so, or was deleted."""
        self.told[job_id] = status

    def running(self, permit: str) -> int:
        """How many jobs hold a permit of this name."""
        return sum(permit in (job.permits or ()) for job in self.jobs)

    def names(self) -> set[str]:
        """The names of all permits that jobs may need."""
        keys = {f"key:{job.key}" for job in self.jobs if job.key is not None}
        return keys | {f"queue:{job.queue}" for job in self.jobs}

    def limit(self, name: str) -> float:
        """The highest limit that jobs with this permit may come under."""
        if name.startswith("key:"):
            return KEY_LIMIT
        most = self.queues[name.removeprefix("queue:")].max_running
        return float("inf") if most is None else most

    def per_key(self, queue: str) -> int:
        """How many jobs of one key of the queue may run, as far as their queue and handler say."""
        of_queue = self.queues[queue].max_running_per_key
        return KEY_LIMIT if of_queue is None else min(KEY_LIMIT, of_queue)

    # -- permits ------------------------------------------------------------------------------------

    def admit(self, claims: Sequence[ClaimedJob]) -> dict[Lease, bool]:
        """Whether each of these, of those whose leases hold, may run; the others are held."""
        by_id = {job.id: job for job in self.jobs}
        asked = [
            _Asked(job, claim.lease, self._limits_of(job))
            for claim in claims
            if (job := by_id.get(claim.id)) is not None and job.holds(claim.lease_token)
        ]
        ready = {one.job.id for one in asked if one.job.permits is not None or not one.limits}
        free = self._free(one for one in asked if one.job.id not in ready)
        ranks: Counter[str] = Counter()
        reached: dict[JobId, str] = {}
        for kind in ("key:", "queue:"):
            for one in asked:
                name = next((name for name in one.limits if name.startswith(kind)), None)
                if one.job.id in ready or one.job.id in reached or name is None:
                    continue
                ranks[name] += 1
                if ranks[name] > free[name]:
                    reached[one.job.id] = name
        for one in asked:
            if one.job.id in reached:
                self._hold_back(one.job, reached[one.job.id])
            elif one.job.permits is None:
                one.job.permits = list(one.limits) or None
        return {one.lease: one.job.id not in reached for one in asked}

    def _limits_of(self, job: ReferenceJob) -> dict[str, int]:
        limits: dict[str, int] = {}
        if job.cancel_asked:
            return limits
        if job.key is not None:
            limits[f"key:{job.key}"] = self.per_key(job.queue)
        if (most := self.queues[job.queue].max_running) is not None:
            limits[f"queue:{job.queue}"] = most
        return limits

    def _free(self, asked: Iterable[_Asked]) -> dict[str, int]:
        least: dict[str, int] = {}
        for one in asked:
            for name, limit in one.limits.items():
                least[name] = min(limit, least.get(name, limit))
        return {name: limit - self.running(name) for name, limit in least.items()}

    @staticmethod
    def _hold_back(job: ReferenceJob, held_for: str) -> None:
        job.status, job.token, job.lease_ended = JobStatus.PENDING, None, False
        job.attempts -= 1
        job.hold(held_for)

    def held(self, name: str) -> list[ReferenceJob]:
        """The jobs that are held for this limit, in the order in which they get its permits."""
        return sorted(
            (job for job in self.jobs if job.held_for == name),
            key=lambda job: (job.priority, _time_of(job), job.id),
        )

    def next_held(self, holds: Sequence[str], limit: int) -> list[ReferenceJob]:
        """Those that a worker with so many slots takes from these holds."""
        taken: list[ReferenceJob] = []
        for name in holds:
            waiting = [job for job in self.held(name) if not self.queues[job.queue].paused]
            if not waiting:
                continue
            queue = waiting[0].queue
            of_key = name.startswith("key:")
            most = self.per_key(queue) if of_key else self.queues[queue].max_running
            free = limit if most is None else max(0, min(limit, most - self.running(name)))
            taken += waiting[:free]
        return taken[:limit]

    # -- parents ------------------------------------------------------------------------------------

    def link(self, child: ReferenceJob, parents: Iterable[ReferenceJob], policy: str) -> None:
        """Have a new job wait for others."""
        for parent in parents:
            met = parent.status is JobStatus.SUCCESS or (not parent.live and policy == "run")
            newly_flagged = parent.status is JobStatus.PENDING and not parent.flagged
            parent.flagged = parent.flagged or newly_flagged
            if met:
                continue
            self.links[parent.id, child.id] = policy
            if not newly_flagged:
                self.told.setdefault(parent.id, None)
        if self.waits(child):
            child.due_at = None
            child.hold(PARENTS)

    def waits(self, child: ReferenceJob) -> bool:
        """Whether some parent of the job has not been met."""
        return any(link[1] == child.id for link in self.links)

    def act(self) -> int:
        """Act on ends until there is none left; how many jobs were let go."""
        let_go = 0
        while self.told:
            told, self.told = self.told, {}
            by_id = {job.id: job for job in self.jobs}
            released: set[JobId] = set()
            for parent_id, status in sorted(told.items()):
                parent = by_id.get(parent_id)
                if (found := status or self._look_at(parent)) is not None:
                    released |= self._count(parent_id, found, by_id)
            for child_id in sorted(released):
                child = by_id.get(child_id)
                if child is not None and child.held_for == PARENTS and not self.waits(child):
                    child.let_go()
                    child.due_at = None
                    let_go += 1
        return let_go

    @staticmethod
    def _look_at(parent: ReferenceJob | None) -> str | None:
        """How the job has ended; None where it has not, and will tell."""
        if parent is None:
            return "DELETED"
        parent.flagged = True
        return None if parent.status in LIVE else parent.status

    def _count(self, parent_id: JobId, status: str, by_id: dict[JobId, ReferenceJob]) -> set[JobId]:
        """Count the end of a parent: the children for which it is met. Those it dooms are cancelled."""
        met: set[JobId] = set()
        for link, policy in list(self.links.items()):
            if link[0] != parent_id:
                continue
            child = by_id.get(link[1])
            if status == JobStatus.SUCCESS or policy == "run":
                del self.links[link]
                met.add(link[1])
            elif child is None or child.held_for != PARENTS:
                continue
            elif policy == "cancel" or status in {"CANCELLED", "DELETED"}:
                child.doom()
        return met


def _time_of(job: ReferenceJob) -> datetime:
    """When a held job was due."""
    due_at = job.due_when_let_go[1]
    assert due_at is not None
    return due_at
