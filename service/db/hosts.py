"""Opening connections to the servers of one URL, and following the one that takes writes.

Several hosts are tried in parallel. A connection to a host that froze notices only when a statement
times out, so one connection probes its host every second. Once another host has taken over, the
connections to the old one are cut, and their owners open new ones.
"""

import asyncio
import logging
import ssl
import weakref
from functools import cached_property
from typing import Any, Final, TypeAlias

import asyncpg

from service.settings.database_url import DatabaseUrl, Host

STAGGER_SECONDS: Final = 0.3
"""How long one host is waited for before the next is tried as well."""
AGAIN_SECONDS: Final = 1.0
"""How often a host that refused is asked again while another has not answered."""
PROBE_SECONDS: Final = 1.0
"""How often the host in use is probed."""
PROBE_TIMEOUT_SECONDS: Final = 2.0

# Quoted: asyncpg.Connection is generic for the type checker only.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

UNREACHABLE: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a connection that was cut between two statements
    OSError,
    TimeoutError,
)
"""What a statement raises when the database or the way to it fails."""

_log = logging.getLogger(__name__)


class Hosts:
    """The servers of one URL. `timeout_seconds` limits connecting to one, unless the URL sets a limit."""

    def __init__(self, url: DatabaseUrl, *, timeout_seconds: float) -> None:
        self._url = url
        self._timeout_seconds = url.connect_timeout_seconds or timeout_seconds
        self._order = list(url.hosts)
        """The one that accepted last comes first."""
        self._open: dict[Host, weakref.WeakSet[Any]] = {}
        self._watch: asyncio.Task[None] | None = None
        if url.ignored:
            _log.warning(
                "database_url_parameters_ignored",
                extra={
                    "ignored": ", ".join(url.ignored),
                    "hint": "take them out of DATABASE_URL; "
                    "settings of a PostgreSQL session go into options=-c%20name=value",
                },
            )

    async def connect(self, **options: Any) -> Connection:
        """Open a connection to the first host that accepts; `options` are those of `asyncpg.connect`.

        Raises:
            OSError | TimeoutError | asyncpg.PostgresError: no host can be reached, or all refuse.
        """
        if len(self._order) < 2:
            return await self._connect_to(self._order[0] if self._order else None, options)
        _, connection = await self._connect_to_first(options)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._follow(), name="db.hosts")
        return connection

    async def close(self) -> None:
        """Stop watching the hosts; connections are closed by their owners."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            await asyncio.wait({watch})

    async def _connect_to(self, host: Host | None, options: dict[str, Any]) -> Connection:
        where: dict[str, Any] = {} if host is None else {"host": host.name, "port": host.port}
        if self._url.system_roots:
            where["ssl"] = self._system_roots
        return await asyncpg.connect(
            self._url.dsn, timeout=self._timeout_seconds, **where, **options
        )

    @cached_property
    def _system_roots(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def _connect_to_first(self, options: dict[str, Any]) -> tuple[Host, Connection]:
        attempts: dict[asyncio.Task[Connection], Host] = {}
        refused: dict[Host, BaseException] = {}
        waiting = list(self._order)
        try:
            async with asyncio.timeout(self._timeout_seconds + STAGGER_SECONDS * len(waiting)):
                while True:
                    if waiting:
                        host = waiting.pop(0)
                        attempt = self._connect_to(host, options)
                        attempts[asyncio.create_task(attempt, name=f"db.connect {host}")] = host
                    done, _ = await asyncio.wait(
                        attempts,
                        timeout=STAGGER_SECONDS if waiting else AGAIN_SECONDS,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for task in done:
                        host = attempts[task]
                        if (error := task.exception()) is None:
                            del attempts[task]
                            self._accepted(host, task.result())
                            return host, task.result()
                        del attempts[task]
                        refused[host] = error
                    if not attempts and not waiting:
                        raise _no_host(refused)
                    if not done and not waiting:
                        # The others do not answer. One that refused may be promoted meanwhile.
                        waiting = [host for host in refused if host not in attempts.values()]
        finally:
            await _abandon(attempts)

    def _accepted(self, host: Host, connection: Connection) -> None:
        self._order.sort(key=lambda other: other != host)
        self._open.setdefault(host, weakref.WeakSet()).add(connection)

    async def _follow(self) -> None:
        """Probe the host in use; when another one takes over, leave the old one."""
        options: dict[str, Any] = {"server_settings": {"application_name": "finmind-jobs hosts"}}
        probe: Connection | None = None
        lost = False
        try:
            while True:
                try:
                    if probe is None:
                        host, probe = await self._connect_to_first(options)
                        if lost:
                            self._leave_all_but(host)
                            lost = False
                    await asyncio.sleep(PROBE_SECONDS)
                    await probe.fetchval("SELECT 1", timeout=PROBE_TIMEOUT_SECONDS)
                except UNREACHABLE as error:
                    if not lost:
                        _log.warning("database_host_lost", extra={"error": type(error).__name__})
                    lost = True
                    if probe is None:
                        await asyncio.sleep(AGAIN_SECONDS)
                    else:
                        probe.terminate()
                        probe = None
        finally:
            if probe is not None:
                probe.terminate()

    def _leave_all_but(self, current: Host) -> None:
        left = [one for host, some in self._open.items() if host != current for one in some]
        for connection in left:
            connection.terminate()
        _log.warning(
            "database_host_found", extra={"host": str(current), "connections_cut": len(left)}
        )


async def _abandon(attempts: dict[asyncio.Task[Connection], Host]) -> None:
    """End what is still connecting; what connected in the same instance is cut."""
    for task in attempts:
        task.cancel()
    for result in await asyncio.gather(*attempts, return_exceptions=True):
        if not isinstance(result, BaseException):
            result.terminate()


def _no_host(refused: dict[Host, BaseException]) -> BaseException:
    errors = list(refused.values())
    if all(isinstance(error, asyncpg.PostgresError) for error in errors):
        return errors[0]
    each = "; ".join(
        f"{host}: {str(error) or type(error).__name__}" for host, error in refused.items()
    )
    return ConnectionError(f"no host accepts: {each}")
