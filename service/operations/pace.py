"""How many jobs the next chunk takes, and how long to rest after it."""

from typing import Final

from service.operations.model import Operation

DEFAULT_RATE: Final = 2_500.0
"""Jobs per second where none is asked for: more would take the server from live jobs."""

RATED_CHUNK_SECONDS: Final = 0.1
"""Time that the jobs of one chunk stand for: small chunks leave no gap that live jobs notice."""

LARGEST_EDIT: Final = 100
"""Jobs of a chunk whose payloads come here to be edited."""

CHUNK_SECONDS: Final = 0.1
"""How long a chunk may take: its locks are held, and its connection is used, for so long."""

REST_SHARE: Final = 0.5
"""Least rest after a chunk, as a share of the time that it took: a slow server has to do already."""

LARGEST_SCAN: Final = 16_000
SCAN_GROWTH: Final = 4
"""How many more rows the next chunk looks at where this one found too few that match."""


SHRINKING: Final = 8
"""How many times fewer jobs and rows are tried after a statement was refused."""


class Pace:
    """Sizes chunks by how long they take, and steps by how many rows match."""

    def __init__(self) -> None:
        self._want = 1
        self._size = int(DEFAULT_RATE * RATED_CHUNK_SECONDS)
        self._scan = 0

    def want(self, operation: Operation) -> int:
        """Limit on the jobs of the next chunk of this operation."""
        limits = [self._size, max(1, int(_rate(operation) * RATED_CHUNK_SECONDS))]
        if operation.action.payload_merge is not None:
            limits.append(LARGEST_EDIT)
        if operation.canary is not None and not operation.canary_passed:
            limits.append(max(1, operation.canary.jobs - len(operation.canary_ids)))
        self._want = min(limits)
        return self._want

    def scan(self, want: int) -> int:
        """Limit on the rows that the next chunk looks at."""
        return max(want, self._scan)

    def found(self, jobs: int, *, want: int) -> None:
        """The last chunk came by so many jobs."""
        if jobs < want:
            self._scan = min(LARGEST_SCAN, self.scan(want) * SCAN_GROWTH)
        else:
            self._scan //= 2

    def shrink(self) -> bool:
        """Try fewer jobs and rows, as the last chunk was refused; false: it was one of each."""
        scan = self.scan(self._want)
        self._size, self._scan = max(1, self._want // SHRINKING), scan // SHRINKING
        return scan > 1

    def rest_seconds(
        self, jobs: int, took: float, operation: Operation, *, waited: bool = False
    ) -> float:
        """How long to rest after a chunk of so many jobs that took so many seconds.

        Where it `waited` for others, its time says nothing of its size.
        """
        if waited:
            return jobs / _rate(operation)
        if took > 2 * CHUNK_SECONDS:
            self._size = max(1, self._size // 2)
        elif took < CHUNK_SECONDS:
            self._size = min(int(DEFAULT_RATE), self._size * 2)
        return max(took * REST_SHARE, jobs / _rate(operation) - took)


def _rate(operation: Operation) -> float:
    return DEFAULT_RATE if operation.rate is None else operation.rate
