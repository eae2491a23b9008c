"""`python -m benchmarks.peers`: ours beside other queues, in turn, on the same PostgreSQL.

Every contestant is a process of its own on an empty database of its own; `--json FILE` writes
every run. Ratios are ours over the peer's, run by run.
"""

import argparse
import asyncio
import functools
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from os import urandom
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from benchmarks.peers import installation
from benchmarks.peers.installation import HERE, CannotInstall
from benchmarks.peers.markdown import ratios
from benchmarks.scenario import PAYLOAD, Report, describe, interleaved, postgres

MODES = ("drain", "bulk", "latency")
RATE_PER_SECOND = 100
CHUNK = 10_000
"""Jobs in one call of a peer's bulk API."""
DRIVER_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Contestant:
    """A queue and the command that drives it."""

    name: str
    command: tuple[str, ...]
    folder: Path
    install: Callable[[], None] | None = None
    drain_at_most: int = sys.maxsize


def _in_python(name: str, *, drain_at_most: int = sys.maxsize) -> Contestant:
    command = (str(installation.PYTHON), "-m", f"benchmarks.peers.drive_{name}")
    install = installation.install_python
    return Contestant(name, command, HERE.parent.parent, install, drain_at_most)


def _in_node(name: str, driver: str) -> Contestant:
    command = (str(installation.NODE), driver)
    return Contestant(name, command, installation.NODE_PLACE, installation.install_node)


OURS = Contestant("ours", (sys.executable, "-m", "benchmarks.peers.drive_ours"), HERE.parent.parent)
PEERS = (
    _in_python("pgqueuer"),
    # Some hundred jobs a second: minutes a run otherwise. A short queue is the easier one.
    _in_python("procrastinate", drain_at_most=2_000),
    _in_node("graphile-worker", "drive_graphile.mjs"),
    _in_node("pg-boss", "drive_pgboss.mjs"),
)


class Failed(Exception):
    """A driver ended without a result."""


class Comparison:
    """One call's contestants and figures; who fails once is left out from there on."""

    def __init__(self, dsn: str, report: Report, arguments: argparse.Namespace) -> None:
        self._dsn = dsn
        self._report = report
        self._arguments = arguments
        self._absent: dict[str, str] = {}
        wanted = [peer for peer in PEERS if peer.name in arguments.peers]
        self._contestants = [OURS, *(peer for peer in wanted if self._installed(peer))]

    async def measure(self, mode: str) -> None:
        """All contestants in turn, run after run; then the ratios."""
        turns: list[Callable[[], Awaitable[None]]] = [
            functools.partial(self._turn, mode, contestant) for contestant in self._contestants
        ]
        await interleaved(self._arguments.runs, *turns)
        for name, _, better in FIGURES[mode]:
            if name in NOT_COMPARED:
                continue
            for peer in self._contestants[1:]:
                if peer.name not in self._absent:
                    ratio = f"{name}, ours / {peer.name}"
                    self._report.figure(ratio, "×", better=better)
                    self._report.ratio(ratio, f"{name}, ours", f"{name}, {peer.name}")

    async def _turn(self, mode: str, contestant: Contestant) -> None:
        if contestant.name in self._absent:
            return
        try:
            async with _empty_database(self._dsn) as url:
                result = await _drive(contestant, mode, url, self._arguments)
                await _check_durability(url)
        except Failed as error:
            if contestant is OURS:
                raise
            partial = {f"{name}, {contestant.name}" for name, _, _ in FIGURES[mode]}
            kept = [figure for figure in self._report.figures if figure.name not in partial]
            self._report.figures[:] = kept  # some of its runs would compare with nothing
            self._leave_out(contestant, str(error))
            return
        for (name, unit, better), value in zip(FIGURES[mode], READ[mode](result), strict=True):
            figure = self._report.figure(f"{name}, {contestant.name}", unit, better=better)
            figure.runs.append(value)

    def _installed(self, peer: Contestant) -> bool:
        try:
            if peer.install:
                peer.install()
        except CannotInstall as error:
            self._leave_out(peer, str(error))
            return False
        return True

    def _leave_out(self, peer: Contestant, why: str) -> None:
        self._absent[peer.name] = why
        self._report.machine[f"LEFT OUT: {peer.name}"] = why.strip().splitlines()[-1]
        print(f"LEFT OUT: {peer.name}: {why}", file=sys.stderr, flush=True)


FIGURES = {
    "drain": (
        ("drain", "jobs/s", "higher"),
        ("rows kept per job drained", "rows", "higher"),
        ("worker start to its first handler", "ms", "lower"),
        ("last handler to its outcome on record", "ms", "lower"),
    ),
    "bulk": (("bulk enqueue", "jobs/s", "higher"),),
    "latency": (
        ("enqueue to start at 100/s p50", "ms", "lower"),
        ("enqueue to start at 100/s p99", "ms", "lower"),
    ),
}


NOT_COMPARED = {name for name, unit, _ in FIGURES["drain"] if unit != "jobs/s"}
"""They explain the drain, which already holds them."""


def _read_drain(result: dict[str, Any]) -> tuple[float, ...]:
    jobs, seconds = result["jobs"], result["seconds"]
    settling = 1000 * (seconds - result["last"])
    return jobs / seconds, result["kept"] / jobs, 1000 * result["first"], settling


def _read_latency(result: dict[str, Any]) -> tuple[float, ...]:
    waits = sorted(result["waits"])
    return tuple(1000 * waits[int(share * (len(waits) - 1))] for share in (0.5, 0.99))


READ: dict[str, Callable[[dict[str, Any]], tuple[float, ...]]] = {
    "drain": _read_drain,
    "bulk": lambda result: (result["jobs"] / result["seconds"],),
    "latency": _read_latency,
}


async def _drive(
    contestant: Contestant, mode: str, url: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    jobs = min(arguments.jobs, contestant.drain_at_most if mode == "drain" else sys.maxsize)
    task = {
        "url": url,
        "mode": mode,
        "jobs": jobs,
        "chunk": CHUNK,
        "seconds": arguments.seconds,
        "rate": RATE_PER_SECOND,
        "payload": PAYLOAD,
    }
    process = await asyncio.create_subprocess_exec(
        *contestant.command,
        json.dumps(task),
        cwd=contestant.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DRIVER_SECONDS):
            out, errors = await process.communicate()
    except TimeoutError:
        raise Failed(f"{mode}: not done within {DRIVER_SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not out:
        raise Failed(f"{mode}: {errors.decode(errors='replace')[-2000:]}")
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result | {"jobs": jobs}


async def _check_durability(url: str) -> None:
    """Nobody may be fast by not writing: no unlogged table, no laxer setting of the database."""
    connection = await asyncpg.connect(url)
    try:
        lax = await connection.fetchval(
            "SELECT count(*) FROM pg_class WHERE relpersistence = 'u' AND relkind IN ('r', 'p')"
        )
        commit = await connection.fetchval("SHOW synchronous_commit")
    finally:
        await connection.close()
    if lax or commit != "on":
        raise Failed(f"{lax} unlogged tables, synchronous_commit {commit}")


@asynccontextmanager
async def _empty_database(server_dsn: str) -> AsyncIterator[str]:
    """A new, empty database, dropped afterwards."""
    name = f"peers_{urandom(4).hex()}"
    connection = await asyncpg.connect(server_dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        yield urlunsplit(urlsplit(server_dsn)._replace(path=f"/{name}"))
    finally:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.close()


async def main(arguments: argparse.Namespace) -> None:
    """Measure what was asked for."""
    async with postgres() as dsn:
        report = Report(await describe(dsn))
        pinned = installation.versions().items()
        report.machine["peers"] = ", ".join(f"{name}=={version}" for name, version in pinned)
        report.machine["jobs"] = f"{arguments.jobs}, payload {len(json.dumps(PAYLOAD))} bytes"
        report.machine["runs"] = f"{arguments.runs}, in turn; latency for {arguments.seconds:g} s"
        comparison = Comparison(dsn, report, arguments)
        for mode in arguments.modes:
            await comparison.measure(mode)
    print(ratios(report) if arguments.markdown else report.table())
    if arguments.json:
        arguments.json.write_text(report.json() + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = [peer.name for peer in PEERS]
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--peers", nargs="*", choices=names, default=names)
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs to drain and to enqueue")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the latency load")
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs of each")
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of README instead of every figure"
    )
    parser.add_argument("--json", type=Path, help="write every run to this file")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
