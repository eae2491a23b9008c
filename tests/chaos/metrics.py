"""Memory, descriptors and threads of processes, read from outside, and how fast they grow."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psutil

MIB: Final = 1 << 20
SETTLING_SHARE: Final = 0.25
"""The first share of samples is left out: pools fill and caches warm, which is not growth."""


@dataclass(frozen=True, slots=True)
class ProcessMetrics:
    """One process at one moment."""

    at: float
    memory_bytes: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "ProcessMetrics":
        """Read those of a running process."""
        process = psutil.Process(pid)
        with process.oneshot():
            memory = process.memory_info().rss
            return cls(time.monotonic(), memory, process.num_fds(), process.num_threads())


def settled(samples: Sequence[ProcessMetrics]) -> Sequence[ProcessMetrics]:
    """The samples after the first share."""
    return samples[int(len(samples) * SETTLING_SHARE) :]


def mib_in_ten_minutes(samples: Sequence[ProcessMetrics]) -> float:
    """The slope of a straight line laid through the memory by least squares."""
    points = [(sample.at, sample.memory_bytes / MIB) for sample in settled(samples)]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 600 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def growth(counts: Sequence[float]) -> float:
    """By how much the last third lies above the first, on average."""
    third = max(1, len(counts) // 3)
    return sum(counts[-third:]) / third - sum(counts[:third]) / third
