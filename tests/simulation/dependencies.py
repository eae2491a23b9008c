"""Jobs that wait for other jobs, statement by statement."""

from service.jobs.core.dependencies import AFTER
from service.jobs.core.job import DEAD, LIVE, JobStatus
from tests.simulation.rows import (
    INFINITY,
    Answer,
    DependencyRow,
    Instant,
    Row,
    Tables,
    entry,
    microseconds,
)

Place = tuple[int, int]


class Dependencies:
    """Holds children, counts their parents, and lets them go or cancels them."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def flag_parents(self, _: Instant, *, ids: list[int], statuses: list[str]) -> Answer:
        found = [self.tables.jobs[job_id] for job_id in sorted(ids) if job_id in self.tables.jobs]
        rows = [row for row in found if row.status in statuses and not row.has_children]
        for row in rows:
            row.has_children = True
        return [(row.id,) for row in rows]

    def link_children(
        self, at: Instant, *, parent_ids: list[int], child_ids: list[int], policies: list[str],
        flagged: list[int],
    ) -> Answer:  # fmt: skip
        jobs, unmet = self.tables.jobs, set()
        children: dict[int, None] = {}
        for parent_id, child_id, policy in zip(parent_ids, child_ids, policies, strict=True):
            parent = jobs.get(parent_id)
            ended = None if parent is None or parent.live else parent.status.value
            met = ended == JobStatus.SUCCESS or (ended is not None and policy == "run")
            self.tables.dependencies[parent_id, child_id] = DependencyRow(
                str(policy), at.now, ended, met=met
            )
            if not met:
                unmet.add(parent_id)
                children[child_id] = None
        for parent_id in sorted(unmet - set(flagged)):
            self.tables.tell(parent_id, None)
        held = [self.tables.change(jobs[child_id]) for child_id in children if child_id in jobs]
        for row in held:
            row.held_for, row.held_since, row.held_due_at = AFTER, at.clock, row.next_run_at
            row.next_run_at = INFINITY
        return [(row.id,) for row in held]

    def take_endings(self, at: Instant, *, limit: int, again_seconds: float) -> Answer:
        before = at.now - microseconds(again_seconds)
        free = [
            ending
            for _, ending in sorted(self.tables.endings.items())
            if ending.taken_at is None or ending.taken_at < before
        ][:limit]
        for ending in free:
            ending.taken_at = at.clock
        # Its jobs have no callback and no time for their results: nothing is owed.
        return [(ending.id, ending.job_id, ending.status, ending.batch_id, None) for ending in free]

    def give_back_endings(self, at: Instant, *, ids: list[int], seconds: float) -> Answer:
        for ending_id in ids:
            if ending_id in self.tables.endings:
                self.tables.endings[ending_id].taken_at = at.now - microseconds(seconds)
        return []

    def parent_states(self, _: Instant, *, ids: list[int]) -> Answer:
        rows = [self.tables.jobs[job_id] for job_id in ids if job_id in self.tables.jobs]
        return [(row.id, row.status.value, bool(row.has_children)) for row in rows]

    def mark_children(
        self, _: Instant, *, ids: list[int], statuses: list[str], after_parent: int,
        after_child: int, limit: int,
    ) -> Answer:  # fmt: skip
        ended = dict(zip(ids, statuses, strict=True))
        page = [
            (place, link)
            for place, link in sorted(self.tables.dependencies.items())
            if place[0] in ended and place > (after_parent, after_child)
        ][:limit]
        answer: Answer = []
        for (parent_id, child_id), link in page:
            status = ended[parent_id]
            if not link.met:
                link.outcome = status
                link.met = status == JobStatus.SUCCESS or link.policy == "run"
            answer.append((parent_id, child_id, link.policy, status, link.met))
        return answer

    def release_children(self, at: Instant, *, ids: list[int]) -> Answer:
        ready = [row for row in map(self._held, ids) if row is not None and self._ready(row)]
        for row in ready:
            assert row.held_due_at is not None
            self.tables.change(row)
            row.next_run_at = max(row.held_due_at, at.clock)
            row.let_go()
        return [(row.id, row.queue, row.priority) for row in ready]

    def cancel_children(
        self, at: Instant, *, ids: list[int], parent_ids: list[int], parent_statuses: list[str],
        max_errors: int,
    ) -> Answer:  # fmt: skip
        answer: Answer = []
        for job_id in ids:
            row = self._held(job_id)
            if row is None:
                continue
            self.tables.change(row)
            row.note(entry("parent_failed", row.attempts, None, None), keep=max_errors)
            self.tables.end(row, JobStatus.CANCELLED, at)
            row.lease_token = row.worker_id = None
            answer.append((row.id, row.job_type))
        return answer

    def look_at_parents(
        self, _: Instant, *, after_child: int, after_parent: int, limit: int
    ) -> Answer:
        page = self._page((after_child, after_parent), limit, met=False)
        jobs = self.tables.jobs
        told = {ending.job_id for ending in self.tables.endings.values()}
        looks = {
            parent_id
            for child_id, parent_id in page
            if child_id in jobs and jobs[child_id].live and parent_id not in told
            and not self._tells(parent_id)
        }  # fmt: skip
        for parent_id in sorted(looks):
            self.tables.tell(parent_id, None)
        return [(*page[-1], len(looks), len(page))] if page else []

    def drop_dependencies(
        self, at: Instant, *, after_child: int, after_parent: int, age: int, limit: int
    ) -> Answer:
        before = at.now - microseconds(age * 86_400)
        old = {
            place for place, link in self.tables.dependencies.items() if link.created_at < before
        }
        page = [
            place
            for place in self._page((after_child, after_parent), None)
            if (place[1], place[0]) in old
        ][:limit]
        for child_id, parent_id in page:
            child = self.tables.jobs.get(child_id)
            if child is None or not (child.live or child.status in DEAD):
                del self.tables.dependencies[parent_id, child_id]
        return [(*page[-1], 0, len(page))] if page else []

    def _page(self, after: Place, limit: int | None, *, met: bool = True) -> list[Place]:
        """The next dependencies, each by its child and its parent."""
        places = sorted(
            (child_id, parent_id)
            for (parent_id, child_id), link in self.tables.dependencies.items()
            if met or not link.met
        )
        return [place for place in places if place > after][:limit]

    def _tells(self, job_id: int) -> bool:
        """Whether the end of a job is still to come, and will be told."""
        row = self.tables.jobs.get(job_id)
        return row is not None and (
            row.status in LIVE or (row.status in DEAD and bool(row.has_children))
        )

    def _held(self, job_id: int) -> Row | None:
        row = self.tables.jobs.get(job_id)
        return row if row is not None and row.live and row.held_for == AFTER else None

    def _ready(self, row: Row) -> bool:
        links = self.tables.dependencies.items()
        return all(link.met for (_, child_id), link in links if child_id == row.id)
