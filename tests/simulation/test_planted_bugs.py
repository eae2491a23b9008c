"""A bug that is planted in the engine (or in what the model takes PostgreSQL to do) is found."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from service.db.errors import DATABASE_ERRORS
from service.jobs.core.attempt import Attempt, Stop
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobStatus
from service.jobs.core.lane import LaneRequest, Position
from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.core.poison import PoisonPolicy
from service.jobs.worker import claim_recovery, outbox
from service.jobs.worker.claim_recovery import ClaimRecovery
from service.jobs.worker.claimer import Claimer
from service.jobs.worker.executor import Executor
from service.jobs.worker.heartbeat import Heartbeat
from service.jobs.worker.outbox import Outbox
from service.jobs.worker.run import Run
from service.jobs.worker.settler import Settler
from service.jobs.worker.starter import Starter
from service.jobs.worker.timeouts import Timeouts
from tests.simulation.claims import Claims
from tests.simulation.maintenance import Maintenance
from tests.simulation.rows import Row
from tests.simulation.simulator import Failed, Simulator
from tests.simulation.test_simulation import SEEDS, windows_of_one_job

Patch = pytest.MonkeyPatch


def no_fence(patch: Patch) -> None:
    patch.setattr(Row, "holds", lambda row, _: row.status is JobStatus.RUNNING)


def leases_end_too_early(patch: Patch) -> None:
    take = Claims._take

    def forgetful(self: Claims, row: Row, *args: Any) -> None:
        take(self, row, *args)
        row.lease_until = (row.lease_until or 0) - 8_000_000

    patch.setattr(Claims, "_take", forgetful)


def lost_claims_are_not_looked_for(patch: Patch) -> None:
    async def recover(self: ClaimRecovery) -> None:
        self._lanes.clear()

    patch.setattr(ClaimRecovery, "recover", recover)


def lost_claims_are_looked_for_once(patch: Patch) -> None:
    patch.setattr(claim_recovery, "UNSURE_SECONDS", -1.0)


def a_slot_is_forgotten_of_what_is_not_run(patch: Patch) -> None:
    free = Executor._free

    def forgetful(self: Executor, run: Run) -> None:
        if run.task is None:
            self.runs.discard(run)
        else:
            free(self, run)

    patch.setattr(Executor, "_free", forgetful)


def the_slot_of_a_stuck_handler_is_forgotten(patch: Patch) -> None:
    free = Executor._free

    def forgetful(self: Executor, run: Run) -> None:
        if run.stop is Stop.TIMEOUT and run.abandon_timer and run.abandon_timer.when() < time_now():
            self.runs.discard(run)
        else:
            free(self, run)

    patch.setattr(Executor, "_free", forgetful)


def time_now() -> float:
    return asyncio.get_running_loop().time()


def heartbeats_skip_what_is_not_recorded_yet(patch: Patch) -> None:
    patch.setattr(Settler, "unsettled", lambda _: set())


def heartbeats_cancel_nothing(patch: Patch) -> None:
    patch.setattr(Heartbeat, "_cancel_expiring", lambda _: None)
    patch.setattr(Heartbeat, "_lost", lambda *_: None)


def an_outcome_is_dropped_when_its_statement_fails(patch: Patch) -> None:
    flush = Outbox._flush

    async def lossy(self: Outbox) -> None:
        batch = list(self.waiting)
        try:
            await flush(self)
        except DATABASE_ERRORS:
            del self.waiting[: len(batch)]
            raise

    patch.setattr(Outbox, "_flush", lossy)


def a_batch_that_takes_too_long_is_sent_again_as_it_is(patch: Patch) -> None:
    flush = Outbox._flush

    async def stubborn(self: Outbox) -> None:
        try:
            await flush(self)
        finally:
            self._limit.rows = self._limit.largest

    patch.setattr(Outbox, "_flush", stubborn)


def a_result_too_large_to_be_recorded_is_sent_for_ever(patch: Patch) -> None:
    patch.setattr(outbox, "MAX_TIMEOUTS", 1_000_000)


def a_stop_costs_an_attempt(patch: Patch) -> None:
    cancelled = OutcomePolicy.cancelled

    def harsh(
        self: OutcomePolicy, attempt: Attempt, error: BaseException, stop: Stop | None
    ) -> Any:
        if stop is Stop.SHUTDOWN:
            return self._failed(attempt, error, reason="stopped")
        return cancelled(self, attempt, error, stop)

    patch.setattr(OutcomePolicy, "cancelled", harsh)


def what_does_not_stop_is_never_recorded(patch: Patch) -> None:
    patch.setattr(OutcomePolicy, "stuck", lambda *_: None)


def poison_is_run_for_ever(patch: Patch) -> None:
    patch.setattr(PoisonPolicy, "unfit", lambda *_: None)


def retries_are_counted_one_too_many(patch: Patch) -> None:
    patch.setattr(
        OutcomePolicy,
        "is_last",
        lambda policy, one: one.job.attempt > one.max_retries(policy._settings) + 1,
    )


def nobody_polls(patch: Patch) -> None:
    async def idle(self: Claimer, _: float) -> None:
        await self._woken.wait()

    patch.setattr(Claimer, "_idle", idle)


def what_is_cancelled_at_once_never_begins(patch: Patch) -> None:
    cancel = Executor.cancel

    def eager(self: Executor, run: Run, why: Stop) -> None:
        cancel(self, run, why)
        if run.task is not None:
            run.task.cancel()

    patch.setattr(Executor, "cancel", eager)


def handlers_begin_under_leases_that_are_over(patch: Patch) -> None:
    def careless(self: Executor, run: Run) -> None:
        run.timeout_at = time_now() + self._policy.timeout_seconds(run)
        self._timeouts.watch(run)

    patch.setattr(Executor, "_begin", careless)


def the_next_time_out_is_forgotten(patch: Patch) -> None:
    watch = Timeouts.watch

    def once(self: Timeouts, run: Run) -> None:
        if self._timer is None:
            watch(self, run)

    patch.setattr(Timeouts, "watch", once)


def a_give_back_takes_whatever_claim_there_is(patch: Patch) -> None:
    def release(self: Claims, _at: Any, *, ids: list[int], **_: Any) -> list[tuple[int]]:
        rows = [self.tables.jobs[job_id] for job_id in ids if job_id in self.tables.jobs]
        running = [self.tables.change(r) for r in rows if r.status is JobStatus.RUNNING]
        for row in running:
            row.attempts -= 1
            row.wait()
        return [(row.id,) for row in running]

    patch.setattr(Claims, "release_lost", release)


def a_claim_goes_on_behind_what_it_has_not_walked(patch: Patch) -> None:
    windows_of_one_job(patch)
    behind = property(lambda request: Position(request.due_before + 30.0, request.id_before))
    patch.setattr(LaneRequest, "end", behind)


def nobody_is_known_to_serve_anything(patch: Patch) -> None:
    patch.setattr(Maintenance, "served_types", lambda *_, **__: [])
    patch.setattr(Maintenance, "remembered_types", lambda *_, **__: [])


def a_worker_whose_row_is_gone_stays_unknown(patch: Patch) -> None:
    seen = Maintenance.worker_seen

    def lazy(self: Maintenance, at: Any, *, worker_id: int, **entry: Any) -> Any:
        if worker_id not in self.tables.workers:
            return [(worker_id,)]
        return seen(self, at, worker_id=worker_id, **entry)

    patch.setattr(Maintenance, "worker_seen", lazy)


def what_finds_no_slot_is_forgotten(patch: Patch) -> None:
    patch.setattr(Executor, "give_back", lambda *_, **__: None)


def what_finds_no_slot_waits_for_one(patch: Patch) -> None:
    start = Starter.start

    async def patient(self: Starter, jobs: list[ClaimedJob], *, lease_deadline: float) -> None:
        free = self._slots.free
        await start(self, jobs[:free], lease_deadline=lease_deadline)
        for job in jobs[free:]:
            await self._slots.wait_for(1, float("inf"))
            await start(self, [job], lease_deadline=lease_deadline)

    patch.setattr(Starter, "start", patient)


def what_finds_no_slot_begins_all_the_same(patch: Patch) -> None:
    def bold(self: Executor, job: ClaimedJob, *, lease_deadline: float) -> None:
        self._slots.take(job.queue)
        self.start(job, lease_deadline=lease_deadline)

    patch.setattr(Executor, "give_back", bold)


def what_finds_no_slot_has_used_an_attempt(patch: Patch) -> None:
    def costly(self: Executor, job: ClaimedJob, *, lease_deadline: float) -> None:
        run = self._run(job, lease_deadline)
        self._end(run, self._policy.timed_out(run))

    patch.setattr(Executor, "give_back", costly)


BUGS: Final[list[Callable[[Patch], None]]] = [
    no_fence,
    leases_end_too_early,
    lost_claims_are_not_looked_for,
    a_slot_is_forgotten_of_what_is_not_run,
    the_slot_of_a_stuck_handler_is_forgotten,
    heartbeats_skip_what_is_not_recorded_yet,
    an_outcome_is_dropped_when_its_statement_fails,
    a_batch_that_takes_too_long_is_sent_again_as_it_is,
    a_result_too_large_to_be_recorded_is_sent_for_ever,
    a_stop_costs_an_attempt,
    what_does_not_stop_is_never_recorded,
    poison_is_run_for_ever,
    retries_are_counted_one_too_many,
    nobody_polls,
    handlers_begin_under_leases_that_are_over,
    the_next_time_out_is_forgotten,
    a_worker_whose_row_is_gone_stays_unknown,
    what_finds_no_slot_is_forgotten,
    what_finds_no_slot_waits_for_one,
    what_finds_no_slot_begins_all_the_same,
    what_finds_no_slot_has_used_an_attempt,
]
RARE: Final[list[Callable[[Patch], None]]] = [
    a_claim_goes_on_behind_what_it_has_not_walked,
    heartbeats_cancel_nothing,
    lost_claims_are_looked_for_once,
    what_is_cancelled_at_once_never_begins,
    a_give_back_takes_whatever_claim_there_is,
    nobody_is_known_to_serve_anything,
]
"""Found too, but only by many seeds."""


@pytest.mark.timeout(300)  # of 60 s the last seed is one that the timeout broke
@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(
    simulator: Simulator, plant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Failed):
        run_each(simulator)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", RARE, ids=lambda plant: plant.__name__)
def test_a_bug_that_shows_rarely_is_found(
    simulator: Simulator, plant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Failed):
        run_each(simulator, seeds=8 * SEEDS)


def run_each(simulator: Simulator, *, seeds: int = 2 * SEEDS) -> None:
    for seed in range(seeds):
        simulator.run(seed)
