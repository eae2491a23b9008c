"""The server of a simulation, and connections to it that behave as asyncpg's do."""

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, Final, cast

import asyncpg
from sqlalchemy.ext.asyncio import create_async_engine

from service.db.connection import Link
from service.db.engine import Database
from service.jobs import store
from service.settings import DEFAULT_SCHEMA, Settings
from tests.jobs.statements import BY_SQL, values_of
from tests.simulation.checker import Checker
from tests.simulation.clock import EPOCH, PROCESS, Process, VirtualLoop
from tests.simulation.fault_model import LATE_SECONDS, TROUBLE_SECONDS, End, Fate, FaultModel
from tests.simulation.ledger import CLAIMS
from tests.simulation.model import Model
from tests.simulation.rows import Answer, Instant, microseconds

CUT: Final = (
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.AdminShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionResetError,
)
AUDIT_LOG: Final = "finmind_jobs.audit_log"
UNREACHABLE: Final = (
    ConnectionRefusedError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    TimeoutError,
)
REFUSED: Final = (
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
    asyncpg.OutOfMemoryError,
    asyncpg.DiskFullError,
)

CONNECTION_STATEMENTS: Final = ("BEGIN", "ROLLBACK", "SELECT 1", "SET LOCAL ")
"""How statements begin that concern nothing but the connection."""

NOBODY: Final = contextvars.Context()
"""The context of the server and of the network: no process's."""


class Server:
    """One PostgreSQL: the model's tables, who is connected, and whether it is up."""

    def __init__(
        self, loop: VirtualLoop, fault_model: FaultModel, checker: Checker, model: Model
    ) -> None:
        self.loop = loop
        self.fault_model = fault_model
        self.checker = checker
        self.model = model
        self.up = True
        self.connections: list[Connection] = []
        self.leader: Connection | None = None
        self.on_claim: Callable[[Process], None] | None = None
        """Called when a process was granted a claim whose answer is still on its way."""
        self.listeners: list[tuple[Connection, Callable[[str], None]]] = []

    @property
    def now(self) -> int:
        """The server's clock in microseconds."""
        return microseconds(EPOCH + self.loop.time())

    def execute(
        self,
        statement: str,
        args: tuple[Any, ...],
        *,
        came: int,
        by: Process | None,
        late: bool = False,
    ) -> Answer:
        """Carry out one statement; the checker sees what it did."""
        if statement == store.notify.NOTIFY.sql:
            self.notify(values_of(store.notify.NOTIFY, args)["payload"])
            return [("",)]
        if AUDIT_LOG in statement:
            return []  # its months are all there; it has nothing to do with jobs
        answer = self.model.execute(statement, args, Instant(came, self.now))
        changes = self.model.tables.changes
        self.checker.carried_out(statement, args, changes, by=by, now=came / 1e6, late=late)
        if self.on_claim is not None and by is not None and changes and statement in CLAIMS:
            self.on_claim(by)
        return answer

    def stop(self) -> None:
        """Stop at once: every connection is cut."""
        self.up = False
        self.cut(lambda _: True)

    def cut(self, which: Callable[["Connection"], bool]) -> None:
        """Cut connections."""
        for connection in [one for one in self.connections if which(one)]:
            connection.cut()

    def notify(self, payload: str) -> None:
        """Notify all listeners."""
        for connection, heard in self.listeners:
            connection.process.call(self.loop, heard, payload)


class Connection:
    """One connection: one statement at a time, which ends as the fault model decides."""

    def __init__(self, server: Server, process: Process, settings: Settings) -> None:
        self.process = process
        self._server = server
        self._loop = server.loop
        self._timeout_seconds = settings.database_command_timeout_seconds
        self._closed = False
        self._in_transaction = False
        self._answer: asyncio.Future[Answer] | None = None
        self._on_its_way: asyncio.TimerHandle | None = None
        self._request: tuple[str, tuple[Any, ...]] | None = None
        self._size_seconds = 0.0
        self._on_end: list[Callable[[Connection], None]] = []
        server.connections.append(self)

    # -- as asyncpg's ------------------------------------------------------------------------------

    def is_closed(self) -> bool:
        return self._closed

    def is_in_transaction(self) -> bool:
        return self._in_transaction

    async def fetch(self, statement: str, *args: Any) -> Answer:
        return await self._ask(statement, args)

    async def execute(self, statement: str) -> None:
        await self._ask(statement, ())
        if statement in {"BEGIN", "ROLLBACK"}:
            self._in_transaction = statement == "BEGIN"

    async def fetchval(self, statement: str, *_: object) -> Any:
        return (await self._ask(statement, ()))[0][0]

    def add_termination_listener(self, ended: Callable[["Connection"], None]) -> None:
        self._on_end.append(ended)

    async def add_listener(self, channel: str, heard: Callable[..., None]) -> None:
        await self._ask("SELECT 1", ())
        listener = (self, lambda payload: heard(self, 0, channel, payload))
        self._server.listeners.append(listener)

    async def close(self, *, timeout: float) -> None:  # noqa: ASYNC109 - asyncpg's signature
        self.terminate()

    def terminate(self) -> None:
        """The client goes away. What was on its way may still arrive within a while."""
        handle, request = self._on_its_way, self._request
        if handle is not None and request is not None and not self._closed:
            handle.cancel()
            if self._server.fault_model.survives():
                delay = min(handle.when() - self._loop.time(), LATE_SECONDS)
                self._loop.call_later(delay, self._arrive_late, *request, context=NOBODY)
        self._end()

    @property
    def last(self) -> str:
        """What it was last used for."""
        return BY_SQL.get(self._request[0], self._request[0]) if self._request else "nothing"

    # -- its other end -----------------------------------------------------------------------------

    def cut(self) -> None:
        """The connection to the server is cut; what was on its way may have been carried out."""
        if self._closed:
            return
        if self._on_its_way is not None and self._request is not None:
            self._on_its_way.cancel()
            if self._server.fault_model.survives():
                self._arrive_late(*self._request)
        answer = self._answer
        self._end()
        if answer is not None and not answer.done():
            answer.set_exception(self._error(CUT))

    def _end(self) -> None:
        if self._closed:
            return
        server = self._server
        self._closed = True
        self._in_transaction = False
        server.connections.remove(self)
        server.listeners = [one for one in server.listeners if one[0] is not self]
        if server.leader is self:
            server.leader = None
        for ended in self._on_end:
            self.process.call(self._loop, ended, self)

    def _error(self, choices: tuple[type[BaseException], ...]) -> BaseException:
        return self._server.fault_model.pick(choices)("of the simulation")

    # -- one statement -----------------------------------------------------------------------------

    async def _ask(self, statement: str, args: tuple[Any, ...]) -> Answer:
        assert self._answer is None, "another operation is in progress"
        if self._closed:
            raise asyncpg.InterfaceError("connection is closed")
        loop, fault_model = self._loop, self._server.fault_model
        fate, size_seconds = fault_model.fate(statement), fault_model.seconds_for(statement, args)
        trouble = fate.trouble or size_seconds > TROUBLE_SECONDS
        self._server.checker.asked(statement, args, self.process, trouble=trouble)
        answer: asyncio.Future[Answer] = loop.create_future()
        self._answer, self._request, self._size_seconds = answer, (statement, args), size_seconds
        if fate.end is not End.SILENT_BEFORE:
            self._on_its_way = loop.call_later(
                fate.request_seconds, self._arrive, answer, fate, context=NOBODY
            )
        bound = None
        if fate.silent or fate.seconds + size_seconds > self._timeout_seconds:
            bound = loop.call_later(self._timeout_seconds, _time_out, answer)
        try:
            rows = await answer
        except BaseException:
            self._server.checker.failed(statement, args, self.process)
            raise
        finally:
            self._answer = None
            if bound is not None:
                bound.cancel()
        self._server.checker.answered(statement, self.process)
        return rows

    def _arrive(self, answer: "asyncio.Future[Answer]", fate: Fate) -> None:
        """The statement reached the server; it may have to wait for a lock."""
        if fate.end is End.REFUSED:
            self._on_its_way = None
            self._send(answer, fate, self._error(REFUSED))
        elif fate.end is End.CUT_BEFORE:
            self._on_its_way = None
            self.cut()
        elif fate.end is End.LATE:
            assert self._request is not None
            self._on_its_way = None
            delay = self._server.fault_model.late_seconds()
            self._loop.call_later(delay, self._arrive_late, *self._request, context=NOBODY)
            self.cut()
        elif self._size_seconds > self._timeout_seconds:
            # The server calls it off, and nothing is done; the client may have given up before.
            self._on_its_way = None
            called_off = asyncpg.QueryCanceledError("of the simulation: its size")
            self._loop.call_later(
                self._timeout_seconds, self._send, answer, fate, called_off, context=NOBODY
            )
        elif held := fate.held_seconds + self._size_seconds:
            self._on_its_way = self._loop.call_later(
                held, self._carry_out, answer, fate, self._server.now, context=NOBODY
            )
        else:
            self._carry_out(answer, fate, self._server.now)

    def _carry_out(self, answer: "asyncio.Future[Answer]", fate: Fate, came: int) -> None:
        assert self._request is not None
        self._on_its_way = None
        came_of_it: Answer | BaseException
        try:
            came_of_it = self._run(*self._request, came=came)
        except asyncpg.PostgresError as error:
            came_of_it = error
        if fate.end is End.CUT_AFTER:
            self.cut()
        elif fate.end is not End.SILENT_AFTER:
            self._send(answer, fate, came_of_it)

    def _run(self, statement: str, args: tuple[Any, ...], *, came: int) -> Answer:
        if statement.startswith(CONNECTION_STATEMENTS):
            return [(1,)]
        if statement == store.leadership.LEAD.sql:
            self._server.leader = self._server.leader or self
            return [(self._server.leader is self,)]
        return self._server.execute(statement, args, came=came, by=self.process)

    def _arrive_late(self, statement: str, args: tuple[Any, ...]) -> None:
        server = self._server
        if server.up and args:
            try:
                server.execute(statement, args, came=server.now, by=self.process, late=True)
            except asyncpg.PostgresError:
                return

    def _send(
        self, answer: "asyncio.Future[Answer]", fate: Fate, came_of_it: Answer | BaseException
    ) -> None:
        self._loop.call_later(fate.answer_seconds, _deliver, answer, came_of_it, context=NOBODY)


def _deliver(answer: "asyncio.Future[Answer]", came_of_it: Answer | BaseException) -> None:
    if answer.done():
        return
    if isinstance(came_of_it, BaseException):
        answer.set_exception(came_of_it)
    else:
        answer.set_result(came_of_it)


def _time_out(answer: "asyncio.Future[Answer]") -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


class Access:
    """A process's access to the server, in place of the service's `Database`."""

    schema = DEFAULT_SCHEMA
    engine = create_async_engine("postgresql+asyncpg://nowhere")
    """Nobody opens a dashboard: nothing is ever sent over it."""

    def __init__(self, server: Server, settings: Settings) -> None:
        self._server = server
        self._settings = settings

    async def connect(self, **_: Any) -> Connection:
        process = PROCESS.get()
        assert process is not None
        server = self._server
        task = asyncio.current_task()
        duty = task.get_name().removeprefix("jobs.") if task else ""
        delay = server.fault_model.fate("").request_seconds
        if delay > TROUBLE_SECONDS:
            server.checker.trouble(process, duty)
        await asyncio.sleep(delay)
        if not server.up or not server.fault_model.connects():
            server.checker.trouble(process, duty)
            raise server.fault_model.pick(UNREACHABLE)("of the simulation")
        return Connection(server, process, self._settings)

    def link(self, *, duty: str = "", timeout_seconds: float | None = None) -> Link:
        return Link(self.as_database(), timeout_seconds=timeout_seconds)

    def as_database(self) -> Database:
        """Itself, as far as a type checker can know."""
        return cast("Database", self)
