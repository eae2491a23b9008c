"""`python -m benchmarks`: measure the hot path and print a table (`--json FILE` for machines)."""

import argparse
from pathlib import Path

import uvloop

from benchmarks import bulk, drain, http, latency
from benchmarks.scenario import Report, describe, postgres
from service.heap import freeze_startup_objects
from service.observability.logging import configure_logging
from service.settings import Settings

NAMES = ("drain", "bulk", "latency", "http")


async def main(arguments: argparse.Namespace) -> None:
    """Measure what was asked for."""
    configure_logging(Settings(log_level="ERROR"))
    runs = arguments.runs
    freeze_startup_objects()  # as a serving process does
    async with postgres() as dsn:
        report = Report(await describe(dsn))
        if "drain" in arguments.names:
            await drain.measure(dsn, report, jobs=arguments.jobs, runs=runs)
        if "bulk" in arguments.names:
            await bulk.measure(dsn, report, jobs=arguments.jobs, runs=runs)
        if "latency" in arguments.names:
            await latency.measure(dsn, report, seconds=arguments.seconds, runs=runs)
        if "http" in arguments.names:
            await http.measure(dsn, report, seconds=arguments.seconds, runs=runs)
    print(report.table())
    if arguments.json:
        arguments.json.write_text(report.json() + "\n")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all by default"
    )
    parser.add_argument("--jobs", type=int, default=100_000, help="jobs to drain and to enqueue")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of the timed loads")
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs of each")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    arguments.names = arguments.names or NAMES
    return arguments


if __name__ == "__main__":
    uvloop.run(main(parse()))
