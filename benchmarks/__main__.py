"""`python -m benchmarks`: measure and print a table (`--json FILE` for machines)."""

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from benchmarks import (
    bulk,
    chunks,
    computing,
    costs,
    drain,
    held,
    http,
    idle,
    latency,
    limits,
    lookups,
    offered,
    pages,
    plans,
    processes,
    profiles,
    redrive,
    remote,
    retention,
    schedules,
    states,
    targets,
    variants,
)
from benchmarks.scenario import Report, Scale, describe, postgres, settings
from service.heap import tune_garbage_collection
from service.jobs.worker.outbox import MAX_STATEMENT_BATCHES
from service.observability.logging import configure_logging
from service.settings import Settings

HOT_PATH: dict[str, Callable[[str, Report, Scale], Awaitable[None]]] = {
    "drain": drain.measure,
    "bulk": bulk.measure,
    "latency": latency.measure,
    "http": http.measure,
}
"""What `make bench` measures: a few minutes."""

ON_DEMAND: dict[str, Callable[[str, Report, Scale], Awaitable[None]]] = {
    "chunks": chunks.measure,
    "computing": computing.measure,
    "costs": costs.measure,
    "connections": http.measure_connections,
    "variants": variants.measure,
    "limits": limits.measure,
    "processes": processes.measure,
    "idle": idle.measure,
    "lookups": lookups.measure,
    "pages": pages.measure,
    "redrive": redrive.measure,
    "remote": remote.measure,
    "retention": retention.measure,
    "schedules": schedules.measure,
    "states": states.measure,
    "targets": targets.measure,
    "offered": offered.measure,
    "held": held.measure,
}
"""What is measured when it is named: some of it takes long."""


async def main(arguments: argparse.Namespace) -> None:
    """Measure what was asked for, each beside its floor."""
    configure_logging(Settings(log_level="ERROR"))
    scale = Scale(
        jobs=arguments.jobs,
        seconds=arguments.seconds,
        runs=arguments.runs,
        history=arguments.history,
    )
    tune_garbage_collection()  # as a serving process does
    async with postgres() as dsn:
        if arguments.explain or arguments.profile:
            if arguments.explain:
                await plans.explain(dsn, scale)
            if arguments.profile:
                await profiles.profile(dsn, scale, arguments.profile)
            return
        report = Report(await describe(dsn) | {"scale": str(scale)} | _engine())
        for name in arguments.names or HOT_PATH:
            await (HOT_PATH | ON_DEMAND)[name](dsn, report, scale)
            if arguments.json:  # after each: a later one may fail after hours
                arguments.json.write_text(report.json() + "\n")
    print(report.table())


def _engine() -> dict[str, str]:
    """Slots and batches: of the drains, and of what runs by the service's defaults."""
    return {
        f"engine, {where}": f"{options.worker_concurrency} slots, claims of {options.claim_batch_size}, "
        f"settles of {options.settle_batch_size} to "
        f"{options.settle_batch_size * MAX_STATEMENT_BATCHES}"
        for where, options in (
            ("drains and offered load", drain.PLAIN.settings()),
            ("else", settings()),
        )
    }


def parse() -> argparse.Namespace:
    """The command line."""
    names = [*HOT_PATH, *ON_DEMAND]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(names)}; {', '.join(HOT_PATH)} by default",
    )
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs to drain and to enqueue")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the timed loads")
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs of each")
    parser.add_argument(
        "--history", type=int, default=1_000_000, help="finished jobs behind a full history"
    )
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument(
        "--profile", type=Path, metavar="FILE", help="profile one drain instead (.svg, .json, .txt)"
    )
    parser.add_argument(
        "--explain", action="store_true", help="print the plans of the hot statements instead"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    uvloop.run(main(parse()))
