"""One simulation from start to end: workers, jobs and faults, then no faults, and the last checks."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from service.db.errors import DATABASE_ERRORS
from service.jobs import NewJob, store
from service.jobs.core.dependencies import Dependency, OnParentFailure
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane
from service.jobs.notify.messages import Policies, Wake, encode
from service.jobs.store.queues import MAX_SET
from service.jobs.worker.worker import Worker
from service.settings import Settings
from tests.simulation.checker import Checker
from tests.simulation.clock import Clock, Process, VirtualLoop
from tests.simulation.fault_model import FaultModel
from tests.simulation.handlers import Handlers, Mix
from tests.simulation.ledger import Violation, Watch
from tests.simulation.limits import Limits
from tests.simulation.model import Model
from tests.simulation.server import Access, Server
from tests.simulation.steps import EVENT, StepPlans

ALL_TYPES: Final = ["rare", "thread", "work"]
LAST_CALM_SECONDS: Final = 400.0
"""Seconds after the last fault within which everything ends."""

CANARY_SECONDS: Final = 20.0
"""Seconds within which a job that comes to idle workers ends."""

STOP_SECONDS: Final = 3.0
"""Seconds that a stop may take beyond the grace period while the database answers."""


@dataclass(eq=False)
class Node:
    """One process with a worker."""

    process: Process
    worker: Worker
    access: Access
    settings: Settings
    handlers: Handlers
    whole: bool
    """Whether it serves every queue and every type."""
    stopping: "asyncio.Task[Any] | None" = None
    started: bool = False

    @property
    def up(self) -> bool:
        return self.started and not self.process.dead and self.stopping is None


def handles_in_groups(seed: int) -> bool:
    """Whether jobs of the commonest type are; then none has steps."""
    return random.Random(f"chunks {seed}").random() < 0.2


class Simulation:
    """Everything that belongs to one seed."""

    def __init__(self, seed: int, clock: Clock, base: Settings, settings: dict[str, Any]) -> None:
        self.seed = seed
        # The words "story" and "weather" are part of a seed: with others it draws another scenario.
        self.rng = random.Random(f"story {seed}")
        rng = self.rng
        early = random.Random(f"early {seed}") if rng.random() < 0.3 else None
        self.loop = clock.loop = VirtualLoop(early=early)
        self.settings = draw_settings(base, rng).model_copy(update=settings)
        self.limits = Limits(seed)
        self.chunks = handles_in_groups(seed)
        self.steps = StepPlans(seed, chunks=self.chunks)
        model = Model()
        self.checker = Checker(self.loop, self.settings, tables=model.tables, limits=self.limits)
        self.fault_model = FaultModel(random.Random(f"weather {seed}"))
        self.server = Server(self.loop, self.fault_model, self.checker, model)
        self.mix = Mix.draw(rng)
        families = random.Random(f"families {seed}")
        self.families = families if families.random() < 0.3 else None
        """Decides which jobs wait for others; in most seeds none does."""
        self.nodes: list[Node] = []
        self.made = 0
        self.others: list[asyncio.Task[Any]] = []
        self.passes: list[tuple[Node, asyncio.Task[Any]]] = []

    # -- processes --------------------------------------------------------------------------------

    async def start_node(self, *, whole: bool = False, slots: int | None = None) -> None:
        """Start a process; a worker that finds no database is started again."""
        rng = self.rng
        self.made += 1
        process = Process(f"p{self.made}")
        whole = whole or rng.random() < 0.5
        types = ALL_TYPES if whole or rng.random() < 0.3 else ["thread", "work"]
        queues = ("*",) if whole else rng.choice((("*",), ("*",), ("*", "a:1"), ("a", "b")))
        settings = self.settings.model_copy(
            update={"worker_queues": queues, "worker_concurrency": slots or rng.choice((1, 2, 4))}
        )
        watch = Watch(process, types, settings.worker_concurrency)
        self.checker.watches[process] = watch
        access = Access(self.server, settings)
        handlers = Handlers(self.loop, self.checker, types, limits=self.limits, chunks=self.chunks)
        while not process.dead:
            worker = process.context.run(
                Worker, access.as_database(), settings, handlers=handlers.registry
            )
            node = Node(process, worker, access, settings, handlers, whole)
            starting = process.start(self.loop, worker.start(), "start")
            await asyncio.wait({starting}, timeout=60)
            if starting.done() and starting.exception() is None:
                node.started = True
                self.nodes.append(node)
                return
            if starting.done() and not isinstance(starting.exception(), DATABASE_ERRORS):
                starting.result()
            # As the service does with a worker that fails half-way.
            await asyncio.wait({process.start(self.loop, worker.stop(), "stop")}, timeout=60)
            await asyncio.sleep(1.0)
        watch.ended_at = self.loop.time()

    def up(self) -> list[Node]:
        return [node for node in self.nodes if node.up]

    def crash(self, node: Node) -> None:
        """kill -9: nothing of it runs any more, and its connections are cut."""
        self.checker.note(node.process.name, "crashes")
        self.checker.watches[node.process].ended_at = self.loop.time()
        node.process.kill(self.loop)
        self.server.cut(lambda connection: connection.process is node.process)

    def stop(self, node: Node) -> None:
        """SIGTERM."""
        self.checker.note(node.process.name, "is told to stop")
        self.checker.watches[node.process].ended_at = self.loop.time()
        node.process.call(self.loop, node.worker.stop_claiming)
        for owner, task in self.passes:
            if owner is node:
                node.process.call(self.loop, task.cancel)
        node.stopping = node.process.start(self.loop, node.worker.stop(), "stop")

    async def stall(self, node: Node, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        began = self.loop.time()
        self.checker.note(node.process.name, "stalls", seconds)
        node.process.freeze()
        await asyncio.sleep(seconds)
        self.checker.watches[node.process].stalls.append((began, self.loop.time()))
        self.checker.note(node.process.name, "goes on")
        node.process.thaw(self.loop)

    # -- clients and operators --------------------------------------------------------------------

    def as_client(self, statement: str, *args: Any) -> list[tuple[Any, ...]]:
        """One statement of somebody whose connection is well: `as_client(*CANCEL.bind(…))`."""
        return self.server.execute(statement, args, came=self.server.now, by=None)

    def enqueue(self, count: int) -> None:
        """Enqueue some jobs, and notify some of the workers."""
        jobs = [self.mix.job(self.rng) for _ in range(count)]
        self.limits.give_keys(jobs)
        self.steps.give(jobs)
        encoded = encode_jobs(jobs, max_payload_bytes=100_000)
        keyed = any(job.concurrency_key is not None for job in jobs)
        statement = store.enqueue.ENQUEUE_LIMITED if keyed else store.enqueue.ENQUEUE
        optional = ("concurrency_key",) if keyed else ()
        arguments = store.enqueue.arguments(encoded, optional=optional)
        made = self.as_client(*statement.bind(**arguments))
        if self.families is not None:
            self.hold_children([JobId(row[0]) for row in made], self.families)
        for job_id, seconds in self.steps.events_of(jobs, [row[0] for row in made]):
            self.others.append(asyncio.create_task(self.send_event(job_id, seconds)))
        self.announce(sorted(encoded.lanes()))

    async def send_event(self, job_id: int, seconds: float) -> None:
        """Send a job the event that it waits for, or will, once the server is there."""
        await asyncio.sleep(seconds)
        while not self.server.up:  # noqa: ASYNC110 - of virtual time
            await asyncio.sleep(1.0)
        row = self.server.model.tables.jobs.get(job_id)
        if row is None or not row.live:
            return
        data = {"job_id": job_id, "name": EVENT, "data": '"paid"', "sent_by": None}
        ((*_, due),) = self.as_client(*store.step_events.SEND_EVENT.bind(**data))
        if due:
            self.announce([Lane(row.queue, row.priority)])

    def hold_children(self, made: list[JobId], rng: random.Random) -> None:
        """Have some of the new jobs wait for others, in the transaction that made them."""
        others = [JobId(job_id) for job_id in self.server.model.tables.jobs if job_id < made[0]]
        links = [
            Dependency(parent, child, rng.choice((OnParentFailure.CANCEL, OnParentFailure.RUN)))
            for child in made
            if rng.random() < 0.5
            for parent in rng.sample(others, min(len(others), rng.randint(1, 3)))
        ]
        if links:
            ids, children, policies = zip(*links, strict=True)
            flagged = self.as_client(
                *store.dependencies.FLAG_PARENTS.bind(ids=sorted(set(ids)), statuses=["PENDING"])
            )
            self.as_client(
                *store.dependencies.LINK_CHILDREN.bind(
                    parent_ids=list(ids), child_ids=list(children), policies=list(policies),
                    flagged=[row[0] for row in flagged],
                )
            )  # fmt: skip

    def announce(self, lanes: list[Lane]) -> None:
        """Wake workers: none, some, or all of them more than once."""
        times = self.rng.choice((0, 1, 1, 2))
        for _ in range(times):
            if self.settings.database_listen:
                self.server.notify(encode(Wake(tuple(lanes))))
            else:
                for node in self.up():
                    node.process.call(self.loop, node.worker._pipeline.claimer.wake, lanes)

    def pause(self, queue: str) -> None:
        """Pause a queue, and notify the workers or not."""
        self.as_client(
            *store.queues.PAUSE_QUEUE.bind(name=queue, by="me", reason=None, limit=MAX_SET)
        )
        self.announce_policies()

    def resume(self, queue: str) -> None:
        """Resume it, and notify the workers or not."""
        self.as_client(*store.queues.RESUME_QUEUE.bind(name=queue))
        self.as_client(*store.queues.FORGET_UNSET.bind(name=queue))
        self.announce_policies()

    def change_limits(self) -> None:
        """Set a limit of a queue, now and then, and notify the workers or not."""
        if self.server.up and self.limits.change(self.server.model.tables):
            self.checker.note("limits", sorted(self.server.model.tables.queues))
            self.announce_policies()

    def announce_policies(self) -> None:
        """Notify workers of what changed: none, or all."""
        if self.settings.database_listen and self.rng.random() < 0.5:
            self.server.notify(encode(Policies()))

    # -- from begin to end ------------------------------------------------------------------------

    async def play(self, faults: Callable[[], Awaitable[None]]) -> None:
        """Run workers and jobs under these faults, then without, and check that all ends well.
        Raises:
            Violation: a rule was broken.
        """
        for _ in range(self.rng.choice((1, 2, 2, 3))):
            self.others.append(asyncio.create_task(self.start_node()))
        self.enqueue(self.rng.randint(1, 6))
        await faults()
        await self.calm_down()
        await self.until_all_ended(LAST_CALM_SECONDS, "not all jobs ended")
        await self.until_others_ended()
        self.enqueue_canary()
        await self.until_all_ended(CANARY_SECONDS, "idle workers left a job lie")
        await self.look_at_the_living()
        await self.stop_all()
        self.look_at_the_end()

    async def calm_down(self) -> None:
        """End the faults and the pauses, and start a worker that serves everything unless one is there."""
        self.checker.note("calm")
        self.fault_model.over = True
        self.server.up = True
        for queue in list(self.server.model.tables.queues):
            self.resume(queue)
        if not any(node.whole for node in self.up()):
            await self.start_node(whole=True)

    async def look_at_the_living(self) -> None:
        """Check that every worker still loops and is known, whatever happened to it."""
        since = self.loop.time()
        settings = self.settings
        # One statement that was slow, the rest after it, and the pause after that.
        until = (
            since
            + settings.database_command_timeout_seconds
            + settings.sweep_seconds
            + 2 * settings.poll_max_seconds
        )
        while behind := [node for node in self.up() if node.worker.last_loop_at < since]:
            if self.loop.time() > until:
                raise Violation(f"{behind[0].process.name} does not come round any more")
            await asyncio.sleep(1.0)
        heard_until = self.loop.time() + 2 * settings.lease_seconds
        while unknown := self.unknown_workers():
            if self.loop.time() > heard_until:
                raise Violation(f"nobody knows that {unknown} work")
            await asyncio.sleep(1.0)
        for node in self.up():
            if not node.worker.alive:
                raise Violation(f"a loop of {node.process.name} has ended")

    def unknown_workers(self) -> set[str]:
        """Those that run, and of which `job_workers` says nothing."""
        known = {worker.name for worker in self.server.model.tables.workers.values()}
        return {node.worker.name for node in self.up()} - known

    def enqueue_canary(self, *, seconds: float = 0.0, job_type: str = "work") -> None:
        """Enqueue one more job without a notification; its handler returns after so many seconds."""
        job = NewJob(job_type, [("return", seconds)], queue="a", max_retries=1)
        encoded = encode_jobs([job], max_payload_bytes=100_000)
        self.as_client(*store.enqueue.ENQUEUE.bind(**store.enqueue.arguments(encoded)))

    async def until_all_ended(self, seconds: float, words: str) -> None:
        until = self.loop.time() + seconds
        while (live := self.server.model.tables.live()) and self.loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(1.0)  # of virtual time
        if live:
            raise Violation(f"{words}: {live}")

    async def stop_all(self) -> None:
        """Stop every process that still runs, and wait for each of them."""
        for node in self.up():
            self.stop(node)
        ending = [node.stopping for node in self.nodes if node.stopping and not node.process.dead]
        ending += [task for node, task in self.passes if not node.process.dead]
        asked = self.loop.time()
        await self._wait_for(ending)
        took = self.loop.time() - asked - self.settings.shutdown_grace_seconds
        if took > STOP_SECONDS:
            raise Violation(f"a stop took {took} s more than the grace, with nothing in its way")
        # Handlers that swallow their cancellation go on for a while.
        await asyncio.sleep(60.0)

    async def until_others_ended(self) -> None:
        """Wait for the tasks that faults started, and those that these started."""
        while others := [task for task in self.others if not task.done()]:
            await self._wait_for(others)

    async def _wait_for(self, tasks: "list[asyncio.Task[Any]]") -> None:
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=120)
            if pending:
                raise Violation(f"does not end: {pending}")

    def look_at_the_end(self) -> None:
        """Check that processes that stopped cleanly left nothing behind."""
        self.checker.permits.must_be_free()
        ended = [task for node, task in self.passes if not node.process.dead]
        for task in [*self.others, *ended]:
            if not task.cancelled():
                task.result()
        for node in self.nodes:
            if node.process.dead:
                continue
            assert node.stopping is not None
            node.stopping.result()
            pipeline = node.worker._pipeline
            waiting = pipeline.settler.waiting
            if self.checker.watches[node.process].gave_up:
                waiting = 0  # it said so: the database was away for too long
            held = (pipeline.slots.used, waiting, len(pipeline.executor.runs))
            if held != (0, 0, 0):
                raise Violation(f"{node.process.name} still has slots, outcomes, runs: {held}")
            if node.worker.alive:
                raise Violation(f"a loop of {node.process.name} still runs")
        if self.server.connections:
            owners = [(one.process.name, one.last) for one in self.server.connections]
            raise Violation(f"connections are left open: {owners}")


def draw_settings(base: Settings, rng: random.Random) -> Settings:
    """Settings of one seed: shorter times than the defaults, in the same proportions."""
    lease = rng.choice((10.0, 15.0))
    return base.model_copy(
        update={
            "lease_seconds": lease,
            "heartbeat_seconds": lease / rng.choice((3, 5)),
            "database_command_timeout_seconds": rng.choice((2.0, 3.0)),
            "database_connect_timeout_seconds": 2.0,
            "database_listen": rng.random() < 0.5,
            "claim_batch_size": rng.choice((1, 3, 200)),
            "settle_batch_size": rng.choice((1, 2, 200)),
            "settle_delay_seconds": rng.choice((0.0, 0.002)),
            "poll_min_seconds": 0.2,
            "poll_max_seconds": 4.0,
            "sweep_seconds": 4.0,
            "shutdown_grace_seconds": rng.choice((0.0, 2.0, 8.0)),
            "maintenance_seconds": 10.0,
            "unknown_type_grace_seconds": 20.0,
            "partition_days_ahead": 1,
            "max_lost_leases": rng.choice((1, 2, 3, 5)),
            "max_error_entries": rng.choice((2, 20)),
            "default_max_retries": 2,
        }
    )
