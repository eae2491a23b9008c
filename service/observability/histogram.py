"""A histogram that the engine can afford."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service.observability.labels import LabelBound


class FastHistogram(Collector):
    """A histogram whose `observe` is two additions: no lock, one thread.

    prometheus_client's own takes two locks and a linear search: 1.5 µs against 0.3 µs, and the
    engine observes 80,000 times a second.
    """

    def __init__(
        self, name: str, documentation: str, *, label: str, buckets: Sequence[float]
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.labelnames = (label,)
        self._bounds = tuple(buckets)
        # Per label value: one count a bucket, one above them all, then the sum.
        self._cells: dict[str, list[float]] = {}
        REGISTRY.register(self)

    def observe(self, value: str, seconds: float, *, bound: LabelBound) -> None:
        """Add one observation under the label's value."""
        cells = self._cells.get(value)
        if cells is None:
            value = bound(value)
            cells = self._cells.setdefault(value, [0.0] * (len(self._bounds) + 2))
        cells[bisect_left(self._bounds, seconds)] += 1
        cells[-1] += seconds

    def collect(self) -> Iterator[Metric]:
        """The state as Prometheus reads it; buckets are cumulative."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.labelnames)
        names = [*map(str, self._bounds), "+Inf"]
        for value, cells in list(self._cells.items()):
            total = 0.0
            buckets: list[tuple[str, float]] = []
            for name, count in zip(names, cells[:-1], strict=True):
                total += count
                buckets.append((name, total))
            family.add_metric([value], buckets=buckets, sum_value=cells[-1])
        yield family

    def describe(self) -> Iterator[Metric]:
        """Lets the registry check for a clash of names."""
        yield HistogramMetricFamily(self.name, self.documentation, labels=self.labelnames)
