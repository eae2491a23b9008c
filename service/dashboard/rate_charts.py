"""The charts of what ended in a window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from service.dashboard.charts import Chart, Series, percentiles, stacked
from service.jobs.read.rates import Durations, Point, Window

WORDS: Final = {Window.HOUR: "last hour", Window.DAY: "last 24 hours", Window.WEEK: "last 7 days"}
STEPS: Final = {Window.HOUR: "minute", Window.DAY: "hour", Window.WEEK: "3 hours"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One window to choose."""

    window: Window
    is_current: bool
    href: str


def windows(path: str, current: Window) -> list[Choice]:
    """The windows that a page offers; the shortest is its plain address."""
    more = "&" if "?" in path else "?"
    return [
        Choice(
            one,
            one is current,
            path if one is Window.HOUR else f"{path}{more}window={one.value}",
        )
        for one in Window
    ]


@dataclass(frozen=True, slots=True)
class RateCharts:
    """Throughput, failures, start delay and run time, step by step."""

    throughput: Chart
    failures: Chart
    start_delay: Chart
    run_time: Chart

    @classmethod
    def of(cls, points: Sequence[Point], window: Window) -> Self:
        """Draw them; the names of their elements are those of the members."""
        begins = [point.at for point in points]
        counts = [point.rates.counts for point in points]
        seconds, each = window.step_seconds, STEPS[window]
        failed = [
            Series("retried", [one.retried for one in counts], 3),
            Series("failed for good", [one.dead_lettered + one.failed for one in counts], 2),
        ]
        return cls(
            stacked(
                "throughput", f"Succeeded, each {each}", begins, seconds,
                [Series("succeeded", [one.succeeded for one in counts], 1)],
            ),
            stacked("failures", f"Failed attempts, each {each}", begins, seconds, failed),
            percentiles(
                "start-delay", "Start delay", begins, seconds,
                _lines([point.rates.start_delay for point in points]),
            ),
            percentiles(
                "run-time", "Run time", begins, seconds,
                _lines([point.rates.run_time for point in points]),
            ),
        )  # fmt: skip

    def all(self) -> tuple[Chart, ...]:
        """In the order in which they are read."""
        return self.throughput, self.failures, self.start_delay, self.run_time


def _lines(found: Sequence[Durations | None]) -> list[Series]:
    return [
        Series(label, [None if one is None else getattr(one, label) for one in found], colour)
        for label, colour in (("p50", 4), ("p95", 3), ("p99", 2))
    ]
