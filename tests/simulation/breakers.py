"""Jobs held for the breakers of their targets, statement by statement."""

from service.jobs.core.job import JobStatus
from tests.simulation.rows import INFINITY, Answer, Instant, Row, Tables


class Breakers:
    """Holds jobs, and lets them go."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def hold(self, at: Instant, *, ids: list[int], tokens: list[int], holds: list[str]) -> Answer:
        held: list[Row] = []
        for job_id, token, held_for in zip(ids, tokens, holds, strict=True):
            row = self.tables.jobs.get(job_id)
            if (
                row is None
                or row.status is not JobStatus.PENDING
                or row.lease_token != token
                or row.held_for is not None
            ):
                continue
            self.tables.change(row)
            row.held_for, row.held_since = held_for, at.clock
            row.held_due_at, row.next_run_at = min(row.next_run_at, at.clock), INFINITY
            held.append(row)
        return [(row.id,) for row in held]

    def move(self, _: Instant, *, limit_name: str, held_for: str, limit: int) -> Answer:
        moved = self._held_for(limit_name)[:limit]
        for row in moved:
            self.tables.change(row).held_for = held_for
        return [(row.id,) for row in moved]

    def release(self, at: Instant, *, held_for: str, limit: int) -> Answer:
        released = self._held_for(held_for)[:limit]
        for row in released:
            due = self.tables.change(row).held_due_at
            row.next_run_at = at.clock if due is None else max(due, at.clock)
            row.held_for = row.held_since = row.held_due_at = None
        return [(row.id, row.queue, row.priority) for row in released]

    def _held_for(self, held_for: str) -> list[Row]:
        held = [
            row
            for row in self.tables.live()
            if row.held_for == held_for and row.status is JobStatus.PENDING
        ]
        return sorted(held, key=lambda row: (row.priority, row.held_due_at or 0, row.id))
