"""Checks what must hold in every simulation, at the server and in the handlers.

It trusts neither the engine nor the model, only its own ledger: who claimed what, how each run
ended, which attempts count.
"""

from collections.abc import Sequence
from typing import Any, Final

from service.jobs.core.holds import RATE
from service.jobs.core.job import TRANSITIONS, JobStatus
from service.jobs.core.poison import FIRST_POSTPONED
from service.jobs.flow.admission import RETRY_SECONDS
from service.jobs.handlers.context import JobContext
from service.jobs.worker.outbox import MAX_TIMEOUTS
from service.settings import Settings
from tests.jobs.statements import BY_SQL, statement, values_of
from tests.simulation.clock import EPOCH, Process, VirtualLoop
from tests.simulation.invariants import FAILED, Run, fits
from tests.simulation.ledger import CLAIMING, CLAIMS, Claim, Ledger
from tests.simulation.limits import Limits, PermitLedger, RateLedger
from tests.simulation.rows import MICROSECONDS, Change, Row, Tables
from tests.simulation.steps import StepLedger

RECOVERY_SECONDS: Final = 5.0
"""A claim whose answer was lost is given back within this time, if nothing more goes wrong."""

SETTLE_IN_SECONDS: Final = 1.0
"""The time a process may need to notice what it missed during a stall, or what is overdue."""

BEGIN_IN_SECONDS: Final = 0.5
"""A claimed job starts within this time: there is a slot for it, or it is given back."""

ALIVE_SECONDS: Final = 30.0
"""A worker counts as alive for so long after it was last seen."""


class Checker(Ledger):
    """The rules. Those for a statement stand in the method of its name."""

    def __init__(
        self, loop: VirtualLoop, settings: Settings, *, tables: Tables, limits: Limits
    ) -> None:
        super().__init__(loop)
        self._settings = settings
        self._tables = tables
        self.permits = PermitLedger(limits, tables, self.violate)
        self.rates = RateLedger(tables, self.violate)
        self.steps = StepLedger(tables, self.violate, self.events, self.holder)

    def carried_out(
        self, sql: str, args: tuple[Any, ...], changes: list[Change],
        *, by: Process | None, now: float, late: bool = False,
    ) -> None:  # fmt: skip
        """The server carried a statement out.

        Args:
            sql: which.
            args: its arguments.
            changes: what it did to jobs.
            by: the process that sent it; None for a person.
            now: its `now()`.
            late: whether that process had gone away, and never sees the answer.
        """
        name = BY_SQL[sql]
        touched = [row for change in changes if (row := change.after or change.before)]
        if changes or sql in CLAIMING:
            who = by.name if by else "a person"
            self.note(who, name, [(row.id, row.lease_token) for row in touched])
        self.events[name] += 1
        for change in changes:
            self._step(name, change)
            self.permits.changed(change)
        rule = getattr(self, f"_{name.lower()}", None)
        if rule is not None:
            rule(values_of(statement(name), args), changes, by, now)
        for row in touched:
            if late and sql in CLAIMS and row.status is JobStatus.RUNNING:
                self.holder[row.id].unanswered_at = self.now
            expected = self.attempts[row.id]
            if row.attempts != expected:
                self.violate(f"{name} left job {row.id} at {row.attempts} attempts: {expected}")

    def _step(self, name: str, change: Change) -> None:
        before, after = change.before, change.after
        if before is not None and (after is None or not after.live):
            self.ends[before.id].add("DELETED" if after is None else after.status)
        if before is None or after is None:
            return
        if after.status is not before.status and after.status not in TRANSITIONS[before.status]:
            self.violate(f"{name} took job {before.id} from {before.status} to {after.status}")
        entries = len(after.errors or ())
        cancelled = after.id in self.cancel_asked and not after.live
        if cancelled and after.status is not JobStatus.CANCELLED:
            self.violate(f"{name} ended job {after.id} {after.status}: its cancel was accepted")
        if entries > self._settings.max_error_entries:
            self.violate(f"the history of job {after.id} has {entries} entries")

    # -- clients and operators --------------------------------------------------------------------

    def _enqueue(self, _values: Any, changes: list[Change], _by: Any, _now: float) -> None:
        for row in _rows(changes):
            self.timeouts[row.id] = row.timeout_seconds
            default = self._settings.default_max_retries
            self.retries[row.id] = default if row.max_retries is None else row.max_retries

    _enqueue_limited = _enqueue

    def _link_children(self, values: Any, _changes: Any, _by: Any, _now: float) -> None:
        names = ("parent_ids", "child_ids", "policies")
        for parent, child, policy in zip(*(values[name] for name in names), strict=True):
            self.parents_of[child][parent] = str(policy)
            self.events["children"] += 1

    def _release_children(self, _values: Any, changes: list[Change], _by: Any, _n: float) -> None:
        for row in _rows(changes):
            self.events["children let go"] += 1
            if row.id in self.let_go:
                self.violate(f"job {row.id} was let go twice")
            self.let_go.add(row.id)

    def _cancel_children(self, _values: Any, changes: list[Change], _by: Any, _n: float) -> None:
        for row in _rows(changes):
            self.events["children cancelled"] += 1
            parents = self.parents_of[row.id].items()
            if not any(
                policy == "cancel" and self.ends[parent] - {JobStatus.SUCCESS}
                for parent, policy in parents
            ):
                self.violate(f"job {row.id} was cancelled, and none of its parents failed")

    def _must_have_no_parents_left(self, job_id: int) -> None:
        """All that a job waits for has ended, in the manner that it asks for."""
        for parent, policy in self.parents_of[job_id].items():
            ends = self.ends[parent]
            if not (JobStatus.SUCCESS in ends or (policy == "run" and ends)):
                self.violate(f"job {job_id} was claimed, and {parent} has ended {sorted(ends)}")

    def _retry_dead(self, _values: Any, changes: list[Change], _by: Any, _now: float) -> None:
        for row in _rows(changes):
            self.attempts[row.id] = 0
            for run in self.runs_of[row.id]:
                run.of_earlier_epoch = True

    def _cancel(self, _values: Any, changes: list[Change], _by: Any, now: float) -> None:
        for change in changes:
            if change.before is not None and change.before.status is JobStatus.RUNNING:
                claim = self.holder[change.before.id]
                claim.open = False
                self.events["orphan cancelled"] += 1
                if claim.until >= now:
                    self.violate(f"job {claim.job_id} was ended under a lease that holds")

    def _ask_cancel(self, _values: Any, changes: list[Change], _by: Any, _now: float) -> None:
        for row in _rows(changes):
            self.events["cancel asked"] += 1
            self.cancel_asked[row.id] = self.now

    def _pause_queue(self, values: Any, _changes: Any, _by: Any, _now: float) -> None:
        self.paused_since.setdefault(values["name"], self.now)

    def _resume_queue(self, values: Any, _changes: Any, _by: Any, _now: float) -> None:
        self.paused_since.pop(values["name"], None)

    # -- claims -----------------------------------------------------------------------------------

    def _claim(self, _values: Any, changes: list[Change], by: Process | None, now: float) -> None:
        for change in changes:
            before, row = change.before, change.after
            assert before is not None
            assert row is not None
            assert row.lease_token is not None
            assert row.lease_until is not None
            if before.due_at > now * MICROSECONDS + 1:
                self.violate(f"job {row.id} was claimed before it was due")
            if before.status is JobStatus.RUNNING:
                self._taken_over(before, now)
            self._must_have_no_parents_left(row.id)
            self.attempts[row.id] += 1
            until = row.lease_until / MICROSECONDS
            claim = Claim(row.id, row.lease_token, by, row.lost_leases, self.now, until)
            claim.rescued = before.status is JobStatus.RUNNING
            claim.cancelled = row.id in self.cancel_asked
            self.claims[row.id, row.lease_token] = self.holder[row.id] = claim

    _claim_within_limits = _claim_orphans = _claim_held = _claim
    _claim_beside_keys = _claim_by_keys = _claim

    def _claim_limited(
        self, values: Any, changes: list[Change], by: Process | None, now: float
    ) -> None:
        running = []
        for change in changes:
            assert change.after is not None
            if change.after.status is JobStatus.RUNNING:
                running.append(change)
            else:
                self._was_held(change.after)
        self._claim(values, running, by, now)
        for change in running:
            granted = change.before is not None and change.before.permits is None
            if granted and change.after is not None and change.after.permits is not None:
                self._was_admitted(change.after, now)

    def _admit(self, _values: Any, changes: list[Change], _by: Any, now: float) -> None:
        for row in _rows(changes):
            if row.status is JobStatus.RUNNING:
                self._was_admitted(row, now)
            else:
                self._was_held(row)
                self.attempts[row.id] -= 1
                self.holder[row.id].open = False

    def _was_admitted(self, row: Row, now: float) -> None:
        self.events["admitted"] += 1
        self.permits.admitted(row)
        self.rates.admitted(row, now)

    def _was_held(self, row: Row) -> None:
        self.events["held by a rate" if _is_by_rate(row) else "held"] += 1

    def _taken_over(self, before: Row, now: float) -> None:
        """A claim of a job that runs: its lease must have ended, and for a reason."""
        self.events["taken over"] += 1
        old = self.holder[before.id]
        old.open = False
        assert old.process is not None
        if old.until >= now:
            self.violate(f"job {before.id} was taken under a lease that holds")
        watch = self.watches[old.process]
        explained = (
            old.process.dead
            or watch.gave_up
            or watch.stalled_since(old.extended_at)
            or watch.troubled("heartbeat", old.extended_at)
        )
        if old.unanswered_at is not None and not explained:
            explained = (
                watch.troubled("claimer", old.unanswered_at + 0.001)
                or self.now - old.unanswered_at < RECOVERY_SECONDS
            )
        if not explained:
            self.violate(
                f"the lease {old.token} of job {before.id} ran out although nothing kept "
                f"{watch.process.name} from extending it since {old.extended_at - 1000:.3f}"
            )

    def _extend(self, _values: Any, changes: list[Change], _by: Any, _now: float) -> None:
        for row in _rows(changes):
            claim = self.holder[row.id]
            if not claim.open or claim.token != row.lease_token:
                self.violate(f"a lease of job {row.id} was extended that was void")
            claim.extended_at = self.now
            claim.until = (row.lease_until or 0) / MICROSECONDS

    def _release_lost(self, _values: Any, changes: list[Change], _by: Any, _now: float) -> None:
        for row in _rows(changes):
            claim = self.holder[row.id]
            self.events["given back"] += 1
            if not claim.open or (claim.job_id, claim.token) in self.runs:
                self.violate(f"job {row.id} was given back while {claim.token} ran it")
            claim.open = False
            self.attempts[row.id] -= 1

    # -- settlements ------------------------------------------------------------------------------

    def _finish(self, values: Any, changes: list[Change], _by: Any, _now: float) -> None:
        for row, token in self._settled(values, changes, "finish"):
            unrun = _lost_at_last(row)
            self.attempts[row.id] -= unrun
            self._must_fit(row, token, "finish", refund=unrun)

    _finish_permitted = _finish

    def _requeue(self, values: Any, changes: list[Change], _by: Any, _now: float) -> None:
        leases = zip(values["ids"], values["tokens"], strict=True)
        refunds = dict(zip(leases, values["refunds"], strict=True))
        for row, token in self._settled(values, changes, "requeue"):
            refund = refunds[row.id, token]
            self.attempts[row.id] -= refund
            self._must_fit(row, token, "requeue", refund=bool(refund))

    _requeue_permitted = _requeue_suspended = _requeue

    def _store(self, values: Any, _changes: list[Change], _by: Any, _now: float) -> None:
        self.steps.stored(values, self.now)

    def _end_cancelled(self, values: Any, changes: list[Change], _by: Any, _now: float) -> None:
        leases = zip(values["ids"], values["tokens"], strict=True)
        hows = dict(zip(leases, values["hows"], strict=True))
        for row, token in self._settled(values, changes, "cancel"):
            how = hows[row.id, token]
            self.events[f"cancelled: {how}"] += 1
            self.attempts[row.id] -= how == "not_started"
            if how == "not_started" and (row.id, token) in self.runs:
                self.violate(f"job {row.id} ran under {token}, and is said not to have started")

    def _settled(self, values: Any, changes: list[Change], verb: str) -> list[tuple[Row, int]]:
        """What was settled, each with the token that held; nothing else may have been."""
        accepted = {row.id: row for row in _rows(changes)}
        settled: list[tuple[Row, int]] = []
        for job_id, token in zip(values["ids"], values["tokens"], strict=True):
            claim = self.claims.get((job_id, token))
            if claim is None or not claim.open:
                self.events["stale settle"] += 1
                continue
            if (job_id in self.cancel_asked) is not (verb == "cancel"):
                if accepted.pop(job_id, None) is not None:
                    self.violate(f"a {verb} of job {job_id} was accepted against its cancel")
                continue
            claim.open = False
            if job_id in accepted:
                settled.append((accepted.pop(job_id), token))
            else:
                self.violate(f"a {verb} of job {job_id} under {token} was refused: its lease held")
        if accepted:
            self.violate(f"a stale {verb} was accepted: {sorted(accepted)}")
        return settled

    def _must_fit(self, row: Row, token: int, verb: str, *, refund: bool) -> None:
        """What was recorded must be what the run did."""
        unrecordable = self.failed_alone[row.id, token] >= MAX_TIMEOUTS
        wrong = fits(
            self.runs.get((row.id, token)), row, verb, refund=refund, now=self.now,
            unrecordable=unrecordable,
        )  # fmt: skip
        if row.status is JobStatus.FAILED and "could not be recorded" in (row.last_error or ""):
            self.events["unrecordable"] += 1
        if wrong:
            self.violate(f"job {row.id} under {token}: {wrong}")

    # -- workers ----------------------------------------------------------------------------------

    def _worker_seen(self, _values: Any, _c: Any, by: Process | None, now: float) -> None:
        if by is not None:
            self.watches[by].seen_at = now

    _register_worker = _worker_seen

    def _worker_stopped(self, _values: Any, _c: Any, by: Process | None, _now: float) -> None:
        if by is not None:
            self.watches[by].seen_at = None

    def _fail_unserved(self, _values: Any, changes: list[Change], _by: Any, now: float) -> None:
        for row in _rows(changes):
            self.events["unserved"] += 1
            for watch in self.watches.values():
                seen = watch.seen_at is not None and now - watch.seen_at < ALIVE_SECONDS
                if seen and row.job_type in watch.types:
                    name = watch.process.name
                    self.violate(f"{row.job_type} failed for want of a handler beside {name}")

    # -- handlers ---------------------------------------------------------------------------------

    def chunk_started(self, process: Process, jobs: Sequence[JobContext], *, limit: int) -> None:
        """A handler begins that was given these jobs together."""
        self.events["chunk"] += len(jobs) > 1
        ids = [job.job_id for job in jobs]
        if len(jobs) > limit:
            self.violate(f"{process.name} put more than {limit} jobs together: {ids}")
        if len({self._tables.jobs[job_id].queue for job_id in ids}) > 1:
            self.violate(f"{process.name} put jobs of several queues together: {ids}")
        lost = [self.claims[job.job_id, job.lease_token].lost_leases for job in jobs]
        if len(jobs) > 1 and any(lost):
            self.violate(f"{process.name} put a job that lost a lease with others: {ids}")
        if len(jobs) > 1 and any(job.is_last_attempt and job.attempt > 1 for job in jobs):
            self.violate(f"{process.name} put a job's last attempt with others: {ids}")

    def run_started(
        self,
        process: Process,
        context: JobContext,
        *,
        timeout_seconds: float,
        gather_seconds: float = 0.0,
    ) -> Run:
        """A handler begins, which may take `timeout_seconds` unless its job says otherwise.

        Its job may have waited `gather_seconds` for others.
        """
        job_id, token = key = (context.job_id, context.lease_token)
        claim = self.claims[key]
        run = Run(process, context, self.now, self.timeouts[job_id] or timeout_seconds)
        self.note(process.name, "runs", *key)
        if key in self.runs:
            self.violate(f"one claim was run twice: {key}")
        if claim.process is not process:
            self.violate(f"{process.name} runs a claim of another: {key}")
        self._must_be_fit(claim)
        self.permits.must_hold(self._tables.jobs[job_id])
        if EPOCH + self.now >= claim.until:
            self.violate(f"a run of job {job_id} began when its lease {token} had ended")
        self._must_have_a_slot(process, job_id, may_wait=BEGIN_IN_SECONDS + gather_seconds)
        if context.attempt > self.retries[job_id] + 1:
            self.violate(f"job {job_id} is run for the {context.attempt}th time")
        earlier = [run for run in self.runs_of[job_id] if not run.of_earlier_epoch]
        # Whoever fails after he was told to stop is given back.
        failures = sum(run.ended in FAILED and not run.context.cancelled for run in earlier)
        if failures > self.retries[job_id]:
            self.violate(f"job {job_id} has used its retries and is run again")
        for other in self.runs_of[job_id]:
            told = other.ended or other.context.cancelled
            excused = other.process.frozen or self._just_thawed(other.process)
            if not told and not excused:
                self.violate(
                    f"job {job_id} runs twice: in {other.process.name} and in {process.name}"
                )
        self.runs[key] = run
        self.runs_of[job_id].append(run)
        return run

    def _must_be_fit(self, claim: Claim) -> None:
        """What was claimed may be run at all."""
        if claim.cancelled:
            self.violate(f"job {claim.job_id} runs: its cancel was accepted before its claim")
        if claim.lost_leases >= self._settings.max_lost_leases:
            self.violate(f"job {claim.job_id} lost {claim.lost_leases} leases and is run again")
        if claim.rescued and claim.lost_leases >= FIRST_POSTPONED:
            self.violate(f"job {claim.job_id} begins with those that were lost with it")

    def _must_have_a_slot(self, process: Process, job_id: int, *, may_wait: float) -> None:
        """What is claimed begins in a slot that is free, and did not wait for one."""
        watch = self.watches[process]
        running = sum(run.process is process and not run.ended for run in self.runs.values())
        if running >= watch.slots:
            self.violate(f"{process.name} runs more than {watch.slots} jobs at once")
        waited = self.now - watch.claimed_at
        if watch.troubled("claimer", watch.claimed_at):
            # What was claimed together waits while admission is tried again.
            may_wait += RETRY_SECONDS + 3 * self._settings.database_command_timeout_seconds
        if waited > may_wait and not watch.stalled_since(watch.claimed_at):
            self.violate(f"job {job_id} waited in {process.name} for {waited:.3f} s")

    def run_ended(self, run: Run, how: str) -> None:
        """A handler is about to return or to raise."""
        run.ended = how
        took = self.now - run.started_at
        stalled = self.watches[run.process].stalled_since(run.started_at)
        if took > run.timeout_seconds + SETTLE_IN_SECONDS and not (
            run.context.cancelled or stalled
        ):
            self.violate(
                f"job {run.context.job_id} ran for {took:.3f} s and was never told to stop"
            )
        self._must_have_heard(run)
        self.note(run.process.name, "ran", run.context.job_id, run.context.lease_token, how)
        self.events[f"ran: {how}"] += 1

    def _must_have_heard(self, run: Run) -> None:
        """A heartbeat tells of a cancel; the first one of a run may come in the middle of its second."""
        asked = self.cancel_asked.get(run.context.job_id)
        if asked is None or run.context.cancelled:
            return
        since = max(asked, run.started_at)
        if self.now - since <= 2 * self._settings.heartbeat_seconds + SETTLE_IN_SECONDS:
            return
        watch = self.watches[run.process]
        excused = watch.stalled_since(since) or watch.troubled("heartbeat", since)
        if not excused and self.holder[run.context.job_id].token == run.context.lease_token:
            self.violate(f"job {run.context.job_id} ran on and heard of no cancel since {since}")

    def _just_thawed(self, process: Process) -> bool:
        since = self.now - SETTLE_IN_SECONDS
        return any(until >= since for _, until in self.watches[process].stalls)


def _is_by_rate(row: Row) -> bool:
    return row.held_for is not None and row.held_for.startswith(RATE)


def _rows(changes: list[Change]) -> list[Row]:
    """The jobs as they stand after a statement that removes none."""
    return [change.after for change in changes if change.after is not None]


def _lost_at_last(row: Row) -> bool:
    """Whether the claim that ended the job did not run it."""
    event = row.errors[-1]["event"] if row.errors else None
    return row.status is JobStatus.DEAD_LETTER and event == "lease_lost"
