"""Whatever is done to jobs, in any order, the table is as plain Python says it should be.

`STATE_MACHINE_EXAMPLES` and `STATE_MACHINE_STEPS` make it longer than the default suite has time for.
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict, NotFound
from service.jobs import (
    Backoff,
    JobContext,
    JobId,
    JobStatus,
    NewJob,
    Registry,
    cancel_job,
    delete_job,
    enqueue_batch,
    get_job_stats,
    process_due_jobs,
    reschedule_job,
    retry_dead_letter_job,
    send_event,
    store,
)
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import DEAD, LIVE
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.core.outcomes import Cancelled, HowCancelled
from service.jobs.core.steps import NewStep, StepKind
from service.jobs.maintenance import partitions
from service.settings import Settings
from tests.jobs.attempts import BEHAVIOURS, HOUR, OUTCOMES, STEP, behave, outcome_of
from tests.jobs.flow_steps import ADMITS, LANES, QUEUES, FlowSteps
from tests.jobs.harness import Harness
from tests.jobs.reference import (
    KEPT_ERRORS,
    MAX_LOST_LEASES,
    SERVED,
    UNSERVED,
    ReferenceJob,
    assert_same,
    counts,
    reachable,
)
from tests.jobs.reference_flow import PARENTS, ReferenceFlow

ROWS = """
SELECT id, status, attempts, lost_leases, lease_token, next_run_at, next_run_at <= now() AS due,
  queue, priority, job_type, unique_key, errors, finished_at, lease_until, cancel, permits, held_for,
  tableoid::regclass::text AS partition
FROM background_jobs
"""

MISCOUNTED = """
SELECT fingerprint, d.jobs, k.jobs
FROM (SELECT fingerprint, count(*) AS jobs FROM jobs_dead WHERE fingerprint IS NOT NULL GROUP BY 1) d
FULL JOIN (
  SELECT fingerprint, sum(jobs) AS jobs
  FROM (SELECT fingerprint, jobs FROM causes UNION ALL SELECT fingerprint, jobs FROM cause_deltas) c
  GROUP BY 1) k USING (fingerprint)
WHERE COALESCE(d.jobs, 0) <> COALESCE(k.jobs, 0)
"""

NEW_JOBS = st.lists(
    st.builds(
        NewJob,
        # Mostly what workers can take, so that most steps find something to do.
        st.sampled_from([SERVED] * 5 + [UNSERVED]),
        queue=st.sampled_from(["a", "b"]),
        priority=st.sampled_from([0, 2]),
        max_retries=st.sampled_from([None, 0, 1]),
        delay_seconds=st.sampled_from([None] * 5 + [HOUR]),
        unique_key=st.sampled_from([None, None, None, "k", "l"]),
        concurrency_key=st.sampled_from([None, "x", "x", "x", "y"]),
    ),
    min_size=2,
    max_size=6,
)


class JobMachine(FlowSteps, RuleBasedStateMachine):
    """Steps that clients, workers, operators and time take, and what they should lead to."""

    jobs: Bundle[ReferenceJob] = Bundle("jobs")

    harness: ClassVar[Harness]

    def __init__(self) -> None:
        super().__init__()
        self.all: list[ReferenceJob] = []
        self.claims: list[ClaimedJob] = []
        """Every claim ever made by hand, whether or not it still holds."""
        self.seen: dict[JobId, JobStatus] = {}
        self.flow = ReferenceFlow(self.all)

    def of(self, job_id: JobId) -> ReferenceJob | None:
        return next((job for job in self.all if job.id == job_id), None)

    def live_with(self, key: str | None) -> ReferenceJob | None:
        return next((j for j in self.all if key and j.unique_key == key and j.live), None)

    @initialize(
        target=jobs,
        wanted=NEW_JOBS,
        limits=st.sampled_from([(None, None), (None, 1), (1, None), (2, 1)]),
    )
    def begin(
        self, wanted: list[NewJob], limits: tuple[int | None, int | None]
    ) -> MultipleResults[ReferenceJob]:
        self.harness.clear()
        for queue in QUEUES:
            self.set_limits(queue, *limits)
        return self._enqueue(wanted, committed=True)

    # -- clients ----------------------------------------------------------------------------------

    @rule(target=jobs, wanted=NEW_JOBS, committed=st.sampled_from([True, True, True, False]))
    def enqueue(self, wanted: list[NewJob], committed: bool) -> MultipleResults[ReferenceJob]:
        return self._enqueue(wanted, committed=committed)

    def _enqueue(self, wanted: list[NewJob], *, committed: bool) -> MultipleResults[ReferenceJob]:
        async def run() -> list[Any]:
            async with self.harness.database.sessions() as session:
                answers = await enqueue_batch(session, wanted)
                await (session.commit() if committed else session.rollback())
                return answers

        made: list[ReferenceJob] = []
        before = len(self.all)
        for new, answer in zip(wanted, self.harness.do(run()), strict=True):
            standing = self.live_with(new.unique_key)
            assert answer.created == (standing is None)
            if standing is not None:
                assert answer.id == standing.id
                continue
            assert new.queue is not None
            assert new.priority is not None
            job = ReferenceJob(
                answer.id, new.job_type, new.queue, new.priority, new.max_retries,
                new.unique_key, due=new.delay_seconds is None, due_at=answer.next_run_at,
                key=new.concurrency_key, tell=self.flow.tell,
            )  # fmt: skip
            self.all.append(job)
            made.append(job)
        if not committed:
            del self.all[before:]
        return multiple(*made)

    # -- workers ----------------------------------------------------------------------------------

    @precondition(lambda self: any(job.claimable or job.waits_for_limit for job in self.all))
    @rule(order=st.permutations(LANES), limit=st.integers(1, 6), admits=ADMITS)
    def claim(self, order: list[Lane], limit: int, admits: bool) -> None:
        """A round of a worker: held jobs, then lanes."""
        if any(job.waits_for_limit for job in self.all):
            self.hand_over(limit, admits)
        order = self.unpaused(order)
        expected: list[JobId] = []
        for lane in order:
            here = [j for j in self.all if Lane(j.queue, j.priority) == lane and j.claimable]
            expected += [j.id for j in sorted(here, key=lambda j: (j.due_at, j.id))]
        claimed = self.harness.do(
            store.claim.take(
                self.harness.link,
                [LaneRequest(lane, LANE_START, limit) for lane in order],
                [SERVED],
                limit=limit,
                lease_seconds=HOUR,
                worker_id=self.harness.worker_id,
                max_errors=KEPT_ERRORS,
            )
        )
        assert {one.id for one in claimed} == set(expected[:limit])
        self.claimed(claimed)
        if admits:
            self.admit([one for one in claimed if one.permits is None and not one.cancel_asked])

    @precondition(lambda self: any(job.status is JobStatus.RUNNING for job in self.all))
    @rule(order=st.permutations(LANES), limit=st.integers(1, 6), admits=ADMITS)
    def take_over(self, order: list[Lane], limit: int, admits: bool) -> None:
        """Every worker stalls, and another comes: the tokens of the old claims are void."""
        self.let_leases_end((0, 1))
        if any(job.claimable for job in self.all):
            self.claim(order, limit, admits)

    @precondition(lambda self: self.claims)
    @rule(
        places=st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True),
        kind=st.sampled_from(OUTCOMES),
    )
    def settle(self, places: list[int], kind: str) -> None:
        batch = self.lately_claimed(places)
        settled = [(claim, outcome_of(kind, claim)) for claim in batch]
        ends = kind in {"success", "dead", "failed"}
        write: Any = store.settle.finish if ends else store.settle.requeue
        lost = self.harness.do(write(self.harness.link, settled, max_errors=KEPT_ERRORS))
        expected = set()
        for claim in batch:
            job = self.of(claim.id)
            if job is None or not job.settles(claim.lease_token):
                expected.add(claim.lease)  # stale: the invariant sees that nothing changed
            else:
                job.settle(kind)
        assert lost == expected

    @precondition(lambda self: any(job.status is JobStatus.RUNNING for job in self.all))
    @rule(
        places=st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True),
        sent=st.sampled_from(["before", "after", "after", "not"]),
    )
    def suspend(self, places: list[int], sent: str) -> None:
        """Jobs wait for an event at a step of their handlers, and some of them get it."""
        jobs = [job for one in self.lately_claimed(places) if (job := self.of(one.id))]
        if sent == "before":
            for job in jobs[:1]:
                self.send_event(job)
        self.wait_at_a_step(self.lately_claimed(places))
        self.settle(places, "suspend")
        if sent == "after":
            for job in jobs:
                self.send_event(job)

    def wait_at_a_step(self, batch: list[ClaimedJob]) -> None:
        """As `ctx.wait_for_event` does before the attempt ends; the event may have come before."""
        link = self.harness.link
        held = {
            one.lease: job
            for one in batch
            if (job := self.of(one.id)) is not None and job.holds(one.lease_token)
        }
        steps = [
            NewStep(
                one.lease, one.job_type, STEP, StepKind.EVENT, one.attempt, 0.0, wait_seconds=HOUR
            )
            for one in batch
        ]
        stored = self.harness.do(store.steps.store(link, steps))
        assert stored == {(lease, STEP): job.step is None for lease, job in held.items()}
        for one in batch:
            ended = self.harness.do(store.steps.end_wait(link, one.lease, STEP))
            job = held.get(one.lease)
            assert (ended is not None) == (job is not None and job.wait_at_step())

    @rule(job=jobs)
    def send_event(self, job: ReferenceJob) -> None:
        """The second of one name changes nothing, also where its job has ended."""
        statuses = set(JobStatus) if job.event_sent else set(LIVE)
        if self.allowed(job, statuses, lambda session: send_event(session, job.id, STEP)):
            job.send_event()

    @precondition(lambda self: any(job.cancel_asked for job in self.all))
    @rule(how=st.sampled_from(HowCancelled))
    def end_cancelled(self, how: HowCancelled) -> None:
        """Every worker ends what it runs, whether or not its cancel was asked for."""
        batch = [(claim, Cancelled(how)) for claim in self.claims]
        lost = self.harness.do(store.cancel.end(self.harness.link, batch, max_errors=KEPT_ERRORS))
        expected = set()
        for claim, _ in batch:
            job = self.of(claim.id)
            if job is None or not (job.holds(claim.lease_token) and job.cancel_asked):
                expected.add(claim.lease)
            else:
                job.end_cancelled(started=how is not HowCancelled.NOT_STARTED)
        assert lost == expected

    @precondition(lambda self: any(job.status is JobStatus.RUNNING for job in self.all))
    @rule(place=st.integers(0, 8), how=st.sampled_from([None, *HowCancelled]))
    def cancel_one_that_runs(self, place: int, how: HowCancelled | None) -> None:
        """Its worker ends it, or has not heard of it yet."""
        running = [job for job in self.all if job.status is JobStatus.RUNNING]
        running.sort(key=lambda job: job.permits is None)
        self._cancel(running[place % len(running)])
        if how is not None and any(job.cancel_asked for job in self.all):
            self.end_cancelled(how)

    def lately_claimed(self, places: list[int]) -> list[ClaimedJob]:
        """Claims, counted from the newest: most of them hold, some have been taken over."""
        return [self.claims[-place] for place in places if place <= len(self.claims)]

    @precondition(lambda self: self.claims)
    @rule(place=st.integers(1, 8))
    def report_progress_and_heartbeat(self, place: int) -> None:
        claim = self.claims[-min(place, len(self.claims))]
        job = self.of(claim.id)
        holds = job is not None and job.holds(claim.lease_token)
        progress = json.dumps({"fraction": 0.5})
        write = store.progress.write(self.harness.link, {claim.lease: progress})
        assert self.harness.do(write) == ({claim.lease} if holds else set())
        extend = store.leases.extend(self.harness.link, [claim.lease], lease_seconds=HOUR)
        asked = job is not None and job.cancel_asked
        assert self.harness.do(extend) == ({claim.lease: asked} if holds else {})
        if job is not None and holds:
            job.lease_ended = False

    @precondition(lambda self: any(job.due and job.live for job in self.all))
    @rule(behaviours=st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=5))
    def process_what_is_due(self, behaviours: list[str]) -> None:
        """Without limits: how many of the jobs that they hold a pass comes to is a matter of time."""
        limits = self.lift_limits()
        self.act()
        places = {job.id: place for place, job in enumerate(self.all)}
        handlers = Registry()

        @handlers.handler(SERVED, backoff=Backoff(HOUR, 1.0, HOUR, 0.0))
        async def work(_: Any, context: JobContext) -> object:
            return behave(behaviours[places[context.job_id] % len(behaviours)])

        summary = self.harness.do(
            process_due_jobs(
                self.harness.database, 1000, settings=self.harness.settings, handlers=handlers
            )
        )
        expected = dict.fromkeys(("succeeded", "retried", "failed", "dead_lettered"), 0)
        processed = 0
        for counter in self.pass_over(behaviours):
            processed += 1
            if counter is not None:
                expected[counter] += 1
        self.act()
        for queue, (max_running, per_key) in limits.items():
            self.set_limits(queue, max_running, per_key)
        assert summary.processed == processed
        assert {name: getattr(summary, name) for name in expected} == expected

    def pass_over(self, behaviours: list[str]) -> Iterator[str | None]:
        """What a pass does with the jobs of queues that are not paused: a counter for each, if any."""
        open_jobs = [
            (place, job)
            for place, job in enumerate(self.all)
            if not self.flow.queues[job.queue].paused
        ]
        again = True
        while again:
            for place, job in open_jobs:
                if job.held_for not in {None, PARENTS}:
                    job.let_go()
                if job.claimable:
                    yield job.run(behaviours[place % len(behaviours)])
            again = bool(self.flow.act())
        for _, job in open_jobs:
            if job.job_type == UNSERVED and job.due and job.status is JobStatus.PENDING:
                job.fail_unserved()
                yield "failed"

    # -- operators --------------------------------------------------------------------------------

    @rule(
        job=jobs, order=st.sampled_from(["cancel", "cancel", "delete", "retry", "move", "hasten"])
    )
    def operate(self, job: ReferenceJob, order: str) -> None:
        match order:
            case "cancel":
                self._cancel(job)
            case "delete":
                self._delete(job)
            case "retry":
                self._retry(job)
            case _:
                self._reschedule(job, due=order == "hasten")

    def _cancel(self, job: ReferenceJob) -> None:
        if self.allowed(job, set(LIVE), lambda session: cancel_job(session, job.id)):
            job.cancel()

    def _delete(self, job: ReferenceJob) -> None:
        anywhere = set(JobStatus) - {JobStatus.RUNNING}
        if self.allowed(job, anywhere, lambda session: delete_job(session, job.id)):
            self.all.remove(job)
            if job.flagged:
                self.flow.tell(job.id, "DELETED")

    def _retry(self, job: ReferenceJob) -> None:
        standing = self.live_with(job.unique_key)

        async def retry(session: AsyncSession) -> object:
            return await retry_dead_letter_job(session, job.id, by="me", max_errors=KEPT_ERRORS)

        if self.allowed(job, set(DEAD) if standing is None else set(), retry):
            job.retry_by_hand()

    def _reschedule(self, job: ReferenceJob, *, due: bool) -> None:
        run_at = datetime.now(UTC) + timedelta(seconds=-HOUR if due else HOUR)

        async def move(session: AsyncSession) -> None:
            await reschedule_job(session, job.id, run_at)

        if self.allowed(job, {JobStatus.PENDING}, move):
            if job.held_for == PARENTS:
                job.due_when_let_go = due, run_at
            else:
                job.held_for, job.due, job.due_at = None, due, run_at

    def allowed(
        self,
        job: ReferenceJob,
        statuses: set[JobStatus],
        action: Callable[[AsyncSession], Awaitable[object]],
    ) -> bool:
        """Do it; whether it may be done, having seen it refused in the right way where not."""
        if job in self.all and job.status in statuses:
            self.harness.commit(action)
            return True
        with pytest.raises(Conflict if job in self.all else NotFound):
            self.harness.commit(action)
        return False

    # -- time and maintenance ---------------------------------------------------------------------

    @precondition(lambda self: any(job.status is JobStatus.RUNNING for job in self.all))
    @rule(which=st.sampled_from([(0, 1), (0, 2), (1, 2)]))
    def let_leases_end(self, which: tuple[int, int]) -> None:
        """Of every running job, or of every second one."""
        first, step = which
        running = [job for job in self.all if job.status is JobStatus.RUNNING][first::step]
        self.harness.sql(
            "UPDATE jobs_live SET lease_until = now() - interval '1 second'"
            " WHERE id = ANY ($1::bigint[])",
            [job.id for job in running],
        )
        for job in running:
            job.lease_ended = True

    @rule(fold=st.booleans())
    def maintain(self, fold: bool) -> None:
        if fold:
            self.harness.sql(*store.kept_counts.FOLD_STATS.bind())
            self.harness.sql(*store.causes.FOLD_CAUSES.bind(limit=3, kept=store.causes.KEPT_HOURS))
        else:
            self.harness.do(partitions.make_ahead(self.harness.link, days=0))

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def every_job_is_one_row_as_the_rules_say(self) -> None:
        rows = self.harness.sql(ROWS)
        assert sorted(row["id"] for row in rows) == sorted(job.id for job in self.all)
        by_id = {row["id"]: row for row in rows}
        for job in self.all:
            row = by_id[job.id]
            assert_same(row, job)
            status = JobStatus(row["status"])
            before = self.seen.get(job.id, JobStatus.PENDING)
            assert status is before or status in reachable(before), f"{before} to {status}"
            self.seen[job.id] = status

    @invariant()
    def kept_counts_are_the_counted_rows(self) -> None:
        async def read() -> Any:
            async with self.harness.database.sessions() as session:
                return await get_job_stats(session)

        stats = self.harness.do(read())
        by_status, by_type, by_queue = counts(self.all)
        assert stats.by_status == {status: by_status[status] for status in JobStatus}
        assert (stats.by_type, stats.by_queue) == (by_type, by_queue)
        assert (stats.total, stats.total_exact) == (len(self.all), True)
        assert stats.due_now == sum(job.due and job.status is JobStatus.PENDING for job in self.all)

    @invariant()
    def causes_count_the_dead_letters_that_there_are(self) -> None:
        assert self.harness.sql(MISCOUNTED) == []


@pytest.fixture
def of_this_test(pg_dsn: str, make_settings: Callable[..., Settings]) -> Iterator[Harness]:
    settings = make_settings(
        max_error_entries=KEPT_ERRORS,
        max_lost_leases=MAX_LOST_LEASES,
        settle_delay_seconds=0,
        lease_seconds=HOUR,  # what is postponed is due again after all that the test does
    )
    harness = Harness(pg_dsn, settings)
    yield harness
    harness.close()


@pytest.mark.whole
@pytest.mark.timeout(int(os.environ.get("STATE_MACHINE_TIMEOUT_SECONDS", "600")))
def test_any_sequence_of_steps_leaves_the_table_as_the_rules_say(of_this_test: Harness) -> None:
    broken: list[BaseException] = []

    class Machine(JobMachine):
        harness = of_this_test

        def teardown(self) -> None:
            if (error := sys.exception()) is not None and isinstance(error, AssertionError):
                broken.append(error)

    for again in (True, True, False):
        try:
            run_state_machine_as_test(
                Machine,
                settings=hypothesis_settings(
                    max_examples=int(os.environ.get("STATE_MACHINE_EXAMPLES", "20")),
                    stateful_step_count=int(os.environ.get("STATE_MACHINE_STEPS", "50")),
                    deadline=None,
                    report_multiple_bugs=False,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        except FlakyStrategyDefinition:
            # Real time passes: the same steps may leave others to choose from. That proves nothing.
            if broken:
                raise broken[0] from None
            if not again:
                raise
        else:
            return
