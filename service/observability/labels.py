"""The values that a label of a metric may take.

Names of job types and queues come from clients. At most `MAX_LABEL_VALUES` of each get labels of
their own; later ones are counted as `other`, so that no client can fill the memory of this process or
of Prometheus. Types that this process has handlers for always have labels of their own.
"""

from collections.abc import Iterable
from typing import Final

MAX_LABEL_VALUES: Final = 500
OTHER: Final = "other"


class LabelBound:
    """The set of values that one label may take; `other` replaces the rest."""

    def __init__(self, limit: int = MAX_LABEL_VALUES) -> None:
        self._limit = limit
        self._reserved: frozenset[str] = frozenset()
        self._seen: set[str] = set()

    def reserve(self, values: Iterable[str]) -> None:
        """Always give these a label, whatever clients send: a process's own configuration."""
        self._reserved |= frozenset(values)

    @property
    def reserved(self) -> frozenset[str]:
        """The names that are always shown."""
        return self._reserved

    def __call__(self, value: str) -> str:
        """The value itself, or `other` if the limit is reached."""
        if value in self._seen or value in self._reserved:
            return value
        if len(self._seen) >= self._limit:
            return OTHER
        self._seen.add(value)
        return value


known_job_type: Final = LabelBound()
"""Types that this process has handlers for: see `expect_job_types`."""
known_queue: Final = LabelBound()
known_channel: Final = LabelBound(20)
