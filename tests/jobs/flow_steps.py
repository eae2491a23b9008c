"""Steps of the state machine that are about flow: limits, pauses, held jobs and parents."""

from collections.abc import Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, invariant, multiple, precondition, rule
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import NewJob, configure_queue, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.dependencies import OnParentFailure
from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.lane import Lane
from service.jobs.flow.endings import act
from service.jobs.queues import pause_queue, resume_queue
from tests.jobs.attempts import HOUR
from tests.jobs.harness import Harness
from tests.jobs.reference import KEPT_ERRORS, SERVED, UNSERVED, ReferenceJob
from tests.jobs.reference_flow import KEY_LIMIT, ReferenceFlow

QUEUES = ("a", "b")
ADMITS = st.sampled_from([True, True, True, False])
"""Whether a worker sends what it claimed through admission at once, or is slow to."""
LANES = [Lane(queue, priority) for queue in QUEUES for priority in (0, 2)]

MISCOUNTED_PERMITS = """
SELECT p.key, p.running, COALESCE(a.jobs, 0) FROM job_permits p
FULL JOIN (SELECT key, count(*) AS jobs FROM jobs_live, unnest(permits) key GROUP BY 1) a USING (key)
WHERE p.running IS DISTINCT FROM COALESCE(a.jobs, 0)
"""
HELD_AND_LEASED = """
SELECT id FROM jobs_live WHERE (held_for IS NOT NULL OR status = 'PENDING')
  AND (lease_until IS NOT NULL OR permits IS NOT NULL)
  OR held_for IS NOT NULL AND (status <> 'PENDING' OR next_run_at <> 'infinity')
"""
RUNS_BEFORE_ITS_PARENTS_END = """
SELECT b.id FROM jobs_live b JOIN job_dependencies d ON d.child_id = b.id
WHERE NOT d.met AND b.held_for IS DISTINCT FROM 'after'
"""


class FlowSteps:
    """What operators and workers do about limits, pauses and parents."""

    jobs: Bundle[ReferenceJob] = Bundle("jobs")

    harness: ClassVar[Harness]
    all: list[ReferenceJob]
    claims: list[ClaimedJob]
    flow: ReferenceFlow

    def claimed(self, jobs: Sequence[ClaimedJob]) -> None:
        """These were claimed."""
        by_id = {job.id: job for job in self.all}
        for one in jobs:
            job = by_id[one.id]
            job.let_go()
            assert one.lease_token != job.token
            job.claim(one.lease_token)
            assert (one.attempt, one.lost_leases) == (job.attempts, job.lost_leases)
            assert one.cancel_asked == job.cancel_asked
            assert one.permits == job.permits
            self.claims.append(one)

    def unpaused(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Those of queues that are not paused, as a worker reads it."""
        paused = self.harness.do(store.queues.settings(self.harness.link)).paused
        assert paused == {queue for queue, row in self.flow.queues.items() if row.paused}
        return [lane for lane in lanes if lane.queue not in paused]

    # -- limits and pauses --------------------------------------------------------------------------

    @rule(
        queue=st.sampled_from(QUEUES),
        max_running=st.sampled_from([None, 1, 2, 3]),
        per_key=st.sampled_from([None, 1, 1, 3]),
    )
    def set_limits(self, queue: str, max_running: int | None, per_key: int | None) -> None:
        async def change(session: AsyncSession) -> None:
            await configure_queue(
                session, queue, max_running=max_running, max_running_per_key=per_key
            )

        self.harness.commit(change)
        row = self.flow.queues[queue]
        row.max_running, row.max_running_per_key = max_running, per_key

    def lift_limits(self) -> dict[str, tuple[int | None, int | None]]:
        """Lift all limits of queues; those that there were."""
        rows = self.flow.queues
        limits = {name: (row.max_running, row.max_running_per_key) for name, row in rows.items()}
        for name, given in limits.items():
            if given != (None, None):
                self.set_limits(name, None, None)
        return {name: given for name, given in limits.items() if given != (None, None)}

    @rule(queue=st.sampled_from(QUEUES), paused=st.booleans())
    def pause_or_resume(self, queue: str, paused: bool) -> None:
        async def change(session: AsyncSession) -> None:
            await (pause_queue if paused else resume_queue)(session, queue)

        self.harness.commit(change)
        self.flow.queues[queue].paused = paused

    def admit(self, claims: Sequence[ClaimedJob]) -> None:
        """Send claims through admission, in the order in which a worker does."""
        asked = sorted(claims, key=lambda one: (one.priority, one.due_at, one.id))
        link = self.harness.link
        self.harness.do(store.admission.make_permits(link, asked))
        answers = self.harness.do(
            store.admission.admit(link, asked, key_limits=[KEY_LIMIT] * len(asked))
        )
        before = {name: self.flow.running(name) for name in self.flow.names()}
        expected = self.flow.admit(asked)
        assert {lease: answer.admitted for lease, answer in answers.items()} == expected
        for one in asked:
            if expected.get(one.lease):
                one.permits = answers[one.lease].permits
        for name, running in before.items():
            more = self.flow.running(name) - running
            assert not more or running + more <= self.flow.limit(name), name

    @precondition(lambda self: self.claims)
    @rule(places=st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True))
    def admit_again(self, places: list[int]) -> None:
        """Claims that are to be admitted, or have been, or are not held any more."""
        self.admit([self.claims[-place] for place in places if place <= len(self.claims)])

    @precondition(lambda self: any(job.waits_for_limit for job in self.all))
    @rule(limit=st.integers(1, 4), admits=ADMITS)
    def hand_over(self, limit: int, admits: bool) -> None:
        """A worker takes held jobs for which permits seem to be free."""
        link = self.harness.link
        holds = self.harness.do(store.admission.holds(link, after="", limit=100))
        assert set(holds) == {job.held_for for job in self.all if job.held_for}
        holds = [name for name in holds if ":" in name]
        expected = {job.id for job in self.flow.next_held(holds, limit)}
        jobs = self.harness.do(
            store.admission.claim_held(
                link, holds, [SERVED], queues=None, type_limits={SERVED: KEY_LIMIT}, limit=limit,
                left_out=[queue for queue, row in self.flow.queues.items() if row.paused],
                lease_seconds=HOUR, worker_id=self.harness.worker_id,
            )
        )  # fmt: skip
        assert {one.id for one in jobs} == expected
        self.claimed(jobs)
        if admits:
            self.admit([one for one in jobs if not one.cancel_asked])

    # -- parents ------------------------------------------------------------------------------------

    @rule(
        target=jobs,
        parents=st.lists(jobs, min_size=1, max_size=2, unique=True),
        policy=st.sampled_from(OnParentFailure),
        job_type=st.sampled_from([SERVED] * 5 + [UNSERVED]),
        delay=st.sampled_from([None] * 5 + [HOUR]),
        key=st.sampled_from([None, "x"]),
    )
    def enqueue_child(
        self, parents: list[ReferenceJob], policy: OnParentFailure, job_type: str,
        delay: float | None, key: str | None,
    ) -> MultipleResults[ReferenceJob]:  # fmt: skip
        parents = [job for job in parents if job in self.all]
        if not parents:
            return multiple()
        new = NewJob(
            job_type, queue="a", priority=2, delay_seconds=delay, concurrency_key=key,
            after=[job.id for job in parents], on_parent_failure=policy,
        )  # fmt: skip

        async def enqueue(session: AsyncSession) -> JobId:
            return (await enqueue_batch(session, [new]))[0].id

        job_id = self.harness.commit(enqueue)
        child = ReferenceJob(
            job_id, job_type, "a", 2, None, None, due=delay is None, due_at=None, key=key,
            tell=self.flow.tell,
        )  # fmt: skip
        self.all.append(child)
        self.flow.link(child, parents, policy)
        return multiple(child)

    @precondition(lambda self: self.flow.told)
    @rule()
    def act_on_ends(self) -> None:
        self.act()

    def act(self) -> int:
        """Act on all ends that were told; how many children were let go."""

        async def run() -> None:
            while (await act(self.harness.link, max_errors=KEPT_ERRORS)).taken:
                pass

        self.harness.do(run())
        return self.flow.act()

    # -- what always holds --------------------------------------------------------------------------

    @invariant()
    def permits_are_counted_as_jobs_have_them(self) -> None:
        assert self.harness.sql(MISCOUNTED_PERMITS) == []

    @invariant()
    def nothing_that_waits_has_a_lease_or_a_permit(self) -> None:
        assert self.harness.sql(HELD_AND_LEASED) == []

    @invariant()
    def no_job_is_let_go_before_its_parents_have_ended(self) -> None:
        assert self.harness.sql(RUNS_BEFORE_ITS_PARENTS_END) == []
        by_id = {job.id: job for job in self.all}
        for (parent_id, child_id), policy in self.flow.links.items():
            child = by_id.get(child_id)
            assert child is None or child.status is not JobStatus.RUNNING, (parent_id, policy)
