"""Draws what happens to workers, the database and jobs, and when; and what clients do meanwhile."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from service.db.errors import DATABASE_ERRORS
from service.jobs import process_due_jobs, store
from service.jobs.core.change import JobChange
from service.jobs.core.job import DEAD, JobId, JobStatus
from service.jobs.core.lane import Lane
from service.jobs.notify.messages import Cancel, encode
from tests.simulation.clock import Process
from tests.simulation.scenario import Node, Simulation

Fault = Callable[[], None]

MAX_RETRIES_BY_HAND: Final = 5
MAX_PROCESSES: Final = 5
_UNNOTED: Final = {"by": None, "max_errors": 0, "message": None}


class Faults:
    """The faults and the clients' actions of one seed."""

    def __init__(self, simulation: Simulation) -> None:
        self._s = simulation
        self._rng = simulation.rng
        self._retries = 0
        every: list[Fault] = [
            self._crash, self._stall, self._ambush, self._deploy, self._outage, self._cut_some, self._cut_all,
            self._jump, self._wake, self._retry, self._cancel, self._delete, self._change,
            self._pass_by_hand, self._forget_workers, self._pause, self._poison,
        ]  # fmt: skip
        self._faults = [fault for fault in every if self._rng.random() < 0.4]
        self._faults += [self._enqueue, self._enqueue]

    async def run(self) -> None:
        """Inject faults for a while; a fault that lasts ends by itself."""
        until = self._s.loop.time() + self._rng.choice((6.0, 12.0, 24.0))
        mean = self._rng.choice((1.0, 2.0, 4.0))
        while (left := until - self._s.loop.time()) > 0:
            await asyncio.sleep(min(left, self._rng.expovariate(1 / mean)))
            self._rng.choice(self._faults)()
            self._s.change_limits()
        self._s.server.on_claim = None

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            action()

        self._s.others.append(asyncio.create_task(wait()))

    def _start_another(self) -> None:
        if self._s.made < MAX_PROCESSES:
            self._s.others.append(asyncio.create_task(self._s.start_node()))

    def _some_node(self) -> Node | None:
        nodes = self._s.up()
        return self._rng.choice(nodes) if nodes else None

    # -- processes --------------------------------------------------------------------------------

    def _crash(self) -> None:
        node = self._some_node()
        if node is not None:
            self._crash_one(node, restart_after=self._rng.choice((0.1, 2.0, 20.0)))

    def _crash_one(self, node: Node, *, restart_after: float) -> None:
        if node in self._s.up():
            self._s.crash(node)
            self._later(restart_after, self._start_another)

    def _stall(self) -> None:
        node = self._some_node()
        if node is not None and not node.process.frozen:
            seconds = self._s.settings.lease_seconds * self._rng.choice((0.05, 0.5, 1.1, 2.0))
            self._s.others.append(asyncio.create_task(self._s.stall(node, seconds)))

    def _ambush(self) -> None:
        """The next process that is granted a claim stalls before it gets the answer, or soon after."""

        def strike(process: Process) -> None:
            self._s.server.on_claim = None
            node = next((node for node in self._s.up() if node.process is process), None)
            if node is not None and not process.frozen:
                seconds = self._s.settings.lease_seconds * self._rng.choice((0.95, 1.0, 1.5))
                self._s.others.append(asyncio.create_task(self._s.stall(node, seconds)))

        self._s.server.on_claim = strike

    def _poison(self) -> None:
        """One of the jobs that are claimed next takes along each worker that it is granted to."""
        tables = self._s.server.model.tables
        victim: int | None = None

        def strike(process: Process) -> None:
            nonlocal victim
            claimed = [row.id for row in tables.live() if row.lease_token == tables.last_token]
            if not claimed:
                return
            victim = victim or self._rng.choice(claimed)
            node = next((node for node in self._s.up() if node.process is process), None)
            if node is not None and victim in claimed:
                self._later(0.05, lambda: self._crash_one(node, restart_after=0.1))

        self._s.server.on_claim = strike

    def _deploy(self) -> None:
        node = self._some_node()
        if node is not None:
            self._s.stop(node)
            self._later(self._rng.choice((0.0, 1.0)), self._start_another)

    def _jump(self) -> None:
        node = self._some_node()
        if node is not None:
            node.process.wall_offset = self._rng.choice((-3600.0, 0.0, 3600.0, 1e8))

    def _wake(self) -> None:
        node = self._some_node()
        if node is not None:
            lanes = [Lane(self._rng.choice(("a", "b", "nowhere")), self._rng.choice((0, 2, 9)))]
            wake = node.worker._pipeline.claimer.wake
            node.process.call(self._s.loop, wake, lanes if self._rng.random() < 0.7 else [])

    def _pass_by_hand(self) -> None:
        node = self._some_node()
        if node is None:
            return
        slots = node.worker.slots if self._rng.random() < 0.7 else None
        if slots is None:  # the pass has as many again, of its own
            self._s.checker.watches[node.process].slots += node.settings.worker_concurrency

        async def one_pass(node: Node = node) -> None:
            try:
                await process_due_jobs(
                    node.access.as_database(),
                    self._rng.choice((1, 50)),
                    settings=node.settings,
                    handlers=node.handlers.registry,
                    slots=slots,
                )
            except DATABASE_ERRORS:
                return

        task = node.process.start(self._s.loop, one_pass(), "pass")
        if self._rng.random() < 0.3:
            self._later(self._rng.random() * 4.0, lambda: _cancel(task, node, self._s))
        self._s.passes.append((node, task))

    # -- the database -----------------------------------------------------------------------------

    def _outage(self) -> None:
        if not self._s.server.up:
            return
        self._s.checker.note("the server stops")
        self._s.server.stop()
        seconds = self._rng.choice((0.5, 3.0, 12.0, 30.0)) * self._rng.random()
        self._later(seconds, self._end_outage)

    def _end_outage(self) -> None:
        self._s.checker.note("the server is back")
        self._s.server.up = True

    def _cut_some(self) -> None:
        self._s.server.cut(lambda _: self._rng.random() < 0.3)

    def _cut_all(self) -> None:
        self._s.server.cut(lambda _: True)

    # -- clients and operators --------------------------------------------------------------------

    def _enqueue(self) -> None:
        if self._s.server.up:
            self._s.enqueue(self._rng.randint(1, 4))

    def _pause(self) -> None:
        queue = self._rng.choice(("a", "b"))
        if self._s.server.up:
            self._s.pause(queue)
            self._later(self._rng.choice((1.0, 5.0, 20.0)), lambda: self._resume(queue))

    def _resume(self, queue: str) -> None:
        if self._s.server.up:
            self._s.resume(queue)

    def _some_job(self, *statuses: JobStatus) -> int | None:
        jobs = self._s.server.model.tables.jobs.values()
        fit = [row.id for row in jobs if row.status in statuses]
        return self._rng.choice(fit) if fit and self._s.server.up else None

    def _forget_workers(self) -> None:
        """Their rows are gone: somebody deleted them, or the standby was behind."""
        if self._s.server.up:
            self._s.checker.note("the rows of workers are gone")
            self._s.server.model.tables.forget_workers()

    def _retry(self) -> None:
        job_id = self._some_job(*sorted(DEAD))
        if job_id is not None and self._retries < MAX_RETRIES_BY_HAND:
            self._retries += 1
            self._s.as_client(
                *store.actions.RETRY_DEAD.bind(
                    ids=[job_id],
                    payloads=[],
                    keys=[],
                    by="me",
                    max_errors=self._s.settings.max_error_entries,
                    run_at=None,
                    max_retries=None,
                )
            )

    def _cancel(self) -> None:
        job_id = self._some_job(JobStatus.PENDING, JobStatus.RUNNING)
        if job_id is not None:
            asked = {"asked_by": "me", "asked_reason": None}
            self._s.as_client(*store.actions.CANCEL.bind(ids=[job_id], **_UNNOTED, **asked))
            self._s.as_client(*store.cancel.ASK_CANCEL.bind(ids=[job_id], **asked))
            if self._s.settings.database_listen and self._rng.random() < 0.5:
                self._s.server.notify(encode(Cancel((JobId(job_id),))))

    def _delete(self) -> None:
        job_id = self._some_job(*JobStatus)
        if job_id is not None:
            self._s.as_client(*store.actions.DELETE.bind(ids=[job_id]))

    def _change(self) -> None:
        job_id = self._some_job(JobStatus.PENDING, JobStatus.RUNNING)
        if job_id is not None:
            now = datetime.fromtimestamp(self._s.server.now / 1e6, UTC)
            change = self._rng.choice(
                (
                    JobChange(run_at=now + timedelta(seconds=self._rng.choice((-5.0, 0.0, 10.0)))),
                    JobChange(queue=self._rng.choice("ab"), priority=self._rng.choice((1, 2))),
                )
            )
            run_now = self._rng.random() < 0.2
            values = change.encoded() | {"concurrency_key": None}
            self._s.as_client(
                *store.actions.CHANGE.bind(ids=[job_id], run_now=run_now, **_UNNOTED, **values)
            )


def _cancel(task: "asyncio.Task[None]", node: Node, simulation: Simulation) -> None:
    node.process.call(simulation.loop, task.cancel)
