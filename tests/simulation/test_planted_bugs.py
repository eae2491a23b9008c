"""A bug that is planted in the engine (or in what the model takes PostgreSQL to do) is found."""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest

from service.db.errors import DATABASE_ERRORS
from service.jobs.core.attempt import Attempt, Stop
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobStatus
from service.jobs.core.lane import LaneRequest, Position
from service.jobs.core.outcome_policy import OutcomePolicy
from service.jobs.core.poison import PoisonPolicy
from service.jobs.flow.admission import Admission, Admitted
from service.jobs.flow.queue_rates import QueueRates
from service.jobs.flow.queue_settings import QueueSettings
from service.jobs.handlers.chunk_job import ChunkJob
from service.jobs.maintenance import permits as maintenance_of_permits
from service.jobs.worker import claim_recovery, claims, outbox
from service.jobs.worker.chunks import Chunk, Chunks
from service.jobs.worker.claim_recovery import ClaimRecovery
from service.jobs.worker.claimer import Claimer
from service.jobs.worker.executor import Executor
from service.jobs.worker.hand_over import HandOver
from service.jobs.worker.heartbeat import Heartbeat
from service.jobs.worker.outbox import Outbox
from service.jobs.worker.plan.sweep import Sweep
from service.jobs.worker.run import Run
from service.jobs.worker.settler import Settler
from service.jobs.worker.starter import Starter
from service.jobs.worker.timeouts import Timeouts
from tests.simulation import permits
from tests.simulation.claims import Claims
from tests.simulation.dependencies import Dependencies
from tests.simulation.maintenance import Maintenance
from tests.simulation.model import Model
from tests.simulation.permits import Permits
from tests.simulation.rates import Rates, Starts
from tests.simulation.rows import Row, Tables
from tests.simulation.scenario import handles_in_groups
from tests.simulation.simulator import Failed, Simulator
from tests.simulation.steps import Steps
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


def a_pause_is_ignored(patch: Patch) -> None:
    patch.setattr(QueueSettings, "is_paused", lambda *_: False)


def sweeps_ignore_a_pause(patch: Patch) -> None:
    """And nobody looks again before a claim is sent."""
    requests = Sweep.requests

    def careless(self: Sweep, limit: int) -> list[LaneRequest]:
        with patch.context() as sweeping:
            sweeping.setattr(QueueSettings, "is_paused", lambda *_: False)
            return requests(self, limit)

    async def unasked(_: claims.Claims, wanted: list[LaneRequest]) -> list[LaneRequest]:
        return wanted

    patch.setattr(Sweep, "requests", careless)
    patch.setattr(claims.Claims, "_allowed", unasked)


def what_is_paused_is_read_when_told_alone(patch: Patch) -> None:
    once = property(lambda self: 0.0 if self._read_at == float("-inf") else float("inf"))
    patch.setattr(QueueSettings, "seconds_until_old", once)


def what_is_cancelled_is_run_by_who_rescues_it(patch: Patch) -> None:
    patch.setattr(Executor, "_unfit", lambda executor, run: executor._poison.unfit(run))


def an_end_is_recorded_against_a_cancel(patch: Patch) -> None:
    patch.setattr(Tables, "settled", lambda tables, job_id, token, **_: tables.held(job_id, token))


def a_cancel_is_lost_that_was_not_heard_of(patch: Patch) -> None:
    async def forgetful(_: Outbox, _batch: list[Any], lost: set[Any]) -> set[Any]:
        return lost

    patch.setattr(Outbox, "_end_cancelled", forgetful)


def a_parent_is_counted_twice(patch: Patch) -> None:
    mark = Dependencies.mark_children

    def twice(self: Dependencies, at: Any, **values: Any) -> Any:
        answer = mark(self, at, **values)
        for _, child_id, *_ in answer:
            links = self.tables.dependencies.items()
            unmet = [link for (_, child), link in links if child == child_id and not link.met]
            for link in unmet[:1]:
                link.met = True
        return answer

    patch.setattr(Dependencies, "mark_children", twice)


def nobody_looks_whether_a_parent_has_ended_meanwhile(patch: Patch) -> None:
    """Neither after the commit, nor later."""
    tell = Tables.tell

    def deaf(self: Tables, job_id: int | None, status: str | None, **more: Any) -> None:
        if status is not None:
            tell(self, job_id, status, **more)

    patch.setattr(Tables, "tell", deaf)


def a_retry_keeps_its_permit(patch: Patch) -> None:
    requeue = Model.requeue

    def leaky(self: Model, *args: Any, **values: Any) -> Any:
        with patch.context() as requeueing:
            requeueing.setattr(Tables, "free_permits", lambda *_: None)
            return requeue(self, *args, **values)

    patch.setattr(Model, "requeue", leaky)


def a_cancelled_job_keeps_its_permit(patch: Patch) -> None:
    end = Model.end_cancelled

    def leaky(self: Model, *args: Any, **values: Any) -> Any:
        with patch.context() as ending:
            ending.setattr(Tables, "free_permits", lambda *_: None)
            return end(self, *args, **values)

    patch.setattr(Model, "end_cancelled", leaky)


def held_jobs_are_handed_no_permit(patch: Patch) -> None:
    patch.setattr(HandOver, "waiting", False)


def a_limit_lets_one_more_run(patch: Patch) -> None:
    within = permits._within
    patch.setattr(
        permits, "_within", lambda rank, free: within(rank, None if free is None else free + 1)
    )


def an_admission_that_is_sent_twice_is_counted_twice(patch: Patch) -> None:
    asked = Permits._asked

    def forgetful(self: Permits, row: Row, *args: Any) -> Any:
        row.permits = None
        return asked(self, row, *args)

    patch.setattr(Permits, "_asked", forgetful)


def who_is_admitted_starts_unasked(patch: Patch) -> None:
    async def admit(_: Admission, jobs: list[ClaimedJob]) -> Admitted:
        return Admitted(jobs)

    patch.setattr(Admission, "admit", admit)


def a_start_moves_no_time_on(patch: Patch) -> None:
    patch.setattr(Rates, "started", lambda *_: None)


def a_start_under_a_rate_moves_its_time_on_once_for_all_of_a_batch(patch: Patch) -> None:
    after = Starts.after
    patch.setattr(Starts, "after", lambda starts, _: after(starts, 1))


def the_burst_of_a_rate_has_no_bound(patch: Patch) -> None:
    """What nobody started is kept for ever."""
    free = property(lambda starts: max(0, math.floor(-starts.ahead / starts.apart) + 1))
    patch.setattr(Starts, "free", free)
    patch.setattr(
        Starts, "after", lambda starts, jobs: starts.ahead + math.ceil(jobs * starts.apart)
    )


def a_restart_forgets_rates(patch: Patch) -> None:
    register = Maintenance.register_worker

    def forgetful(self: Maintenance, *args: Any, **values: Any) -> Any:
        self.tables.rates = dict.fromkeys(self.tables.rates, 0)
        return register(self, *args, **values)

    patch.setattr(Maintenance, "register_worker", forgetful)


def rows_of_rates_are_dropped_too_early(patch: Patch) -> None:
    """While their starts are not made up for."""
    patch.setattr(Rates, "_is_full", lambda *_: True)
    patch.setattr(maintenance_of_permits, "IDLE_SECONDS", -60.0)


def rates_of_keys_are_not_asked_for(patch: Patch) -> None:
    names_of = Rates.names_of

    def of_queue(self: Rates, at: Any, queue: str, key: str | None) -> list[str]:
        return names_of(self, at, queue, None)

    patch.setattr(Rates, "names_of", of_queue)


def a_job_that_a_rate_holds_is_never_looked_for(patch: Patch) -> None:
    patch.setattr(QueueRates, "holds_jobs", lambda *_: None)


def a_step_is_stored_without_the_fence(patch: Patch) -> None:
    patch.setattr(Steps, "_held", lambda steps, job_id, _: steps.tables.jobs.get(job_id))


def an_event_is_missed_that_comes_while_its_job_is_put_back(patch: Patch) -> None:
    def deaf(_: Steps, at: Any, row: Row, name: str) -> int:
        return _.tables.steps[row.id, name].wait_until or at.clock

    patch.setattr(Steps, "due_at", deaf)


def a_job_gets_the_outcome_of_another_of_its_chunk(patch: Patch) -> None:
    join = Chunks.join

    async def confused(self: Chunks, run: Run, job: ChunkJob[Any]) -> Any:
        value = await join(self, run, job)
        said = [one.outcome for one in self._chunk_of[run].members.values() if one is not job]
        return next((one.result() for one in said if one.done()), value)

    patch.setattr(Chunks, "join", confused)


def what_lost_a_lease_is_put_together_with_others(patch: Patch) -> None:
    put = Chunks._put

    def careless(self: Chunks, run: Run, job: ChunkJob[Any]) -> Chunk:
        lost, run.job.lost_leases = run.job.lost_leases, 0
        try:
            return put(self, run, job)
        finally:
            run.job.lost_leases = lost

    patch.setattr(Chunks, "_put", careless)


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
    a_pause_is_ignored,
    sweeps_ignore_a_pause,
    what_is_paused_is_read_when_told_alone,
    what_is_cancelled_is_run_by_who_rescues_it,
    an_end_is_recorded_against_a_cancel,
    a_cancel_is_lost_that_was_not_heard_of,
    a_parent_is_counted_twice,
    nobody_looks_whether_a_parent_has_ended_meanwhile,
    a_retry_keeps_its_permit,
    a_cancelled_job_keeps_its_permit,
    held_jobs_are_handed_no_permit,
    a_limit_lets_one_more_run,
    an_admission_that_is_sent_twice_is_counted_twice,
    who_is_admitted_starts_unasked,
    a_start_moves_no_time_on,
    the_burst_of_a_rate_has_no_bound,
    a_restart_forgets_rates,
    rows_of_rates_are_dropped_too_early,
    rates_of_keys_are_not_asked_for,
    a_job_that_a_rate_holds_is_never_looked_for,
    an_event_is_missed_that_comes_while_its_job_is_put_back,
]
RARE: Final[list[Callable[[Patch], None]]] = [
    a_claim_goes_on_behind_what_it_has_not_walked,
    heartbeats_cancel_nothing,
    lost_claims_are_looked_for_once,
    what_is_cancelled_at_once_never_begins,
    a_give_back_takes_whatever_claim_there_is,
    nobody_is_known_to_serve_anything,
    a_start_under_a_rate_moves_its_time_on_once_for_all_of_a_batch,
    a_step_is_stored_without_the_fence,
]
"""Found too, but only by many seeds."""
WITH_CHUNKS: Final = [seed for seed in range(8 * SEEDS) if handles_in_groups(seed)]


SHOWN_BY: Final[dict[Callable[[Patch], None], int]] = {
    no_fence: 33,
    the_slot_of_a_stuck_handler_is_forgotten: 54,
    a_batch_that_takes_too_long_is_sent_again_as_it_is: 85,
    a_result_too_large_to_be_recorded_is_sent_for_ever: 85,
    a_stop_costs_an_attempt: 34,
    what_does_not_stop_is_never_recorded: 54,
    what_finds_no_slot_is_forgotten: 130,
    what_finds_no_slot_waits_for_one: 205,
    sweeps_ignore_a_pause: 48,
    what_is_cancelled_is_run_by_who_rescues_it: 198,
    a_cancelled_job_keeps_its_permit: 113,
    an_event_is_missed_that_comes_while_its_job_is_put_back: 50,
}
"""A seed that shows a bug, of those that few show: tried first. Where the simulation has changed since, the
others are tried as for every bug, which takes longer."""


@pytest.mark.timeout(300)  # of 60 s the last seed is one that the timeout broke
@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(
    simulator: Simulator, plant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Failed):
        run_each(simulator, [SHOWN_BY.get(plant, 0), *range(2 * SEEDS)])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", RARE, ids=lambda plant: plant.__name__)
def test_a_bug_that_shows_rarely_is_found(
    simulator: Simulator, plant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Failed):
        run_each(simulator, range(8 * SEEDS))


@pytest.mark.parametrize(
    "plant",
    [
        a_job_gets_the_outcome_of_another_of_its_chunk,
        pytest.param(what_lost_a_lease_is_put_together_with_others, marks=pytest.mark.slow),
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_bug_of_chunks_is_found(
    simulator: Simulator, plant: Callable[[Patch], None], monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Failed):
        run_each(simulator, WITH_CHUNKS)


def run_each(simulator: Simulator, seeds: Iterable[int] = range(2 * SEEDS)) -> None:
    for seed in seeds:
        simulator.run(seed)
