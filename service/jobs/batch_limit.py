"""How many rows one statement may hold."""

from typing import Final

GROW_BELOW: Final = 0.25
"""A statement that took less than this share of its time limit may hold twice as much the next time."""


class BatchLimit:
    """A limit that is halved when a statement fails, and grows back while statements are quick.

    So neither the size of a batch nor one value in it keeps the other rows from being written or
    read: whatever is at fault stands alone in the end.

    Attributes:
        rows: how many a statement may hold now; at first `largest`.
    """

    def __init__(self, largest: int, *, seconds: float) -> None:
        self.rows = self.largest = largest
        self._quick_seconds = seconds * GROW_BELOW

    def failed(self, rows: int) -> None:
        """A statement with so many rows failed."""
        self.rows = max(1, rows // 2)

    def succeeded(self, seconds: float) -> None:
        """A statement took so long."""
        if seconds < self._quick_seconds:
            self.rows = min(self.rows * 2, self.largest)
