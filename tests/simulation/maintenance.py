"""What workers and their leader do besides claiming and settling, statement by statement."""

from collections import Counter
from datetime import timedelta
from typing import Any

from service.jobs.core.job import JobStatus
from tests.simulation.rows import (
    MICROSECONDS,
    Answer,
    Instant,
    Row,
    Tables,
    WorkerRow,
    entry,
    microseconds,
    moment,
    time_of,
)


class Maintenance:
    """Registers workers and served types, fails unserved jobs, and reads the gauges."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def register_worker(self, at: Instant, *, name: str, job_types: list[str], **_: Any) -> Answer:
        self.tables.last_worker_id += 1
        worker_id = self.tables.last_worker_id
        self.tables.workers[worker_id] = WorkerRow(worker_id, name, job_types, at.now)
        return [(worker_id, at.now / MICROSECONDS)]

    def worker_seen(
        self, at: Instant, *, worker_id: int, name: str, job_types: list[str], **_: Any
    ) -> Answer:
        worker = self.tables.workers.get(worker_id)
        if worker is None or worker.name != name:
            return [self.register_worker(at, name=name, job_types=job_types)[0][:1]]
        worker.seen_at, worker.job_types = at.now, job_types
        return [(worker_id,)]

    def worker_stopped(self, at: Instant, *, worker_id: int) -> Answer:
        if worker_id in self.tables.workers:
            worker = self.tables.workers[worker_id]
            worker.seen_at = worker.stopped_at = at.now
        return []

    def forget_worker(self, _: Instant, *, worker_id: int) -> Answer:
        self.tables.workers.pop(worker_id, None)
        return []

    def served_types(self, at: Instant, *, alive_seconds: float, grace_seconds: float) -> Answer:
        served: set[str] = set()
        for worker in self.tables.workers.values():
            if worker.stopped_at is None:
                serves = worker.seen_at > at.now - microseconds(alive_seconds)
            else:
                serves = worker.stopped_at > at.now - microseconds(grace_seconds)
            served.update(worker.job_types if serves else ())
        return [(job_type,) for job_type in sorted(served)]

    def remember_served_types(self, at: Instant) -> Answer:
        seen: dict[str, int] = {}
        for worker in self.tables.workers.values():
            for job_type in worker.job_types:
                seen[job_type] = max(seen.get(job_type, 0), worker.seen_at)
        for job_type, when in seen.items():
            before = self.tables.served.get(job_type)
            if before is None or before < when - microseconds(3600):
                self.tables.served[job_type] = when
        return []

    def remembered_types(self, at: Instant, *, days: int) -> Answer:
        since = at.now - microseconds(days * 86_400)
        return [(name,) for name, when in sorted(self.tables.served.items()) if when > since]

    def forget_served_types(self, at: Instant, *, days: int) -> Answer:
        since = at.now - microseconds(days * 86_400)
        for name in [name for name, when in self.tables.served.items() if when < since]:
            del self.tables.served[name]
        return []

    def waiting_for_worker(self, at: Instant, *, job_types: list[str], **heads: Any) -> Answer:
        waiting: Counter[str] = Counter()
        for row in self._overdue(at, **heads):
            waiting[row.job_type] += row.job_type in job_types
        return [(name, count) for name, count in sorted(waiting.items()) if count]

    def _overdue(
        self, at: Instant, *, queues: list[str], priorities: list[int], first_at: list[float],
        due_seconds: float, walk: int,
    ) -> list[Row]:  # fmt: skip
        heads: list[Row] = []
        for queue, priority, first in zip(queues, priorities, first_at, strict=True):
            lane = [
                row
                for row in self.tables.lane(queue, priority)
                if row.status is JobStatus.PENDING
                and time_of(first) <= row.next_run_at <= at.now - microseconds(due_seconds)
            ]
            heads += lane[:walk]
        return heads

    def fail_unserved(
        self, at: Instant, *, served: list[str], limit: int, max_errors: int, **heads: Any
    ) -> Answer:
        overdue = self._overdue(at, **heads)
        failed = [row for row in overdue if row.job_type not in served][:limit]
        for row in failed:
            self.tables.fail_unrun(self.tables.change(row), at)
            row.last_error = f"No handler registered for job type: {row.job_type}"
            row.note(entry("no_handler", row.attempts, "NoHandler", None), keep=max_errors)
        return [(row.id, row.job_type) for row in failed]

    def queue_gauges(
        self, at: Instant, *, queues: list[str], priorities: list[int], first_at: list[float],
        cap: int,
    ) -> Answer:  # fmt: skip
        answer: Answer = []
        for wanted in dict.fromkeys(queues):
            due: list[Row] = []
            for queue, priority, first in zip(queues, priorities, first_at, strict=True):
                if queue == wanted:
                    lane = self.tables.lane(queue, priority)
                    due += [row for row in lane if time_of(first) <= row.next_run_at <= at.now][
                        :cap
                    ]
            waiting = [row for row in due if row.status is JobStatus.PENDING]
            oldest = max((at.now - row.next_run_at for row in waiting), default=0) / MICROSECONDS
            answer.append((wanted, len(waiting), len(due) - len(waiting), oldest))
        return answer

    def today(self, at: Instant) -> Answer:
        return [(moment(at.now).date(),)]

    def day_leaves(self, at: Instant) -> Answer:
        """Every partition that the leader would make, so that it has nothing to do."""
        days = [moment(at.now) + timedelta(days=ahead) for ahead in range(3)]
        return [(f"jobs_done_{day:%Y%m%d}",) for day in days]
