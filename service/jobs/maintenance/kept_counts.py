"""Fold the kept counts, to which every settle appends."""

from typing import Final

from service.db.connection import Link
from service.jobs import store

FOLD_ABOVE_ROWS: Final = 500
"""Fewer rows of job_stats than this are not worth a rewrite."""


class KeptCounts:
    """The kept counts, folded when they have grown to twice what the last fold left."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._folded_rows = 0

    async def fold(self) -> None:
        """Fold them where it is worth it: with many types and days even folded rows are many."""
        limit = FOLD_ABOVE_ROWS + 2 * self._folded_rows
        if await store.kept_counts.unfolded(self._link, limit=limit) >= limit:
            self._folded_rows = await store.kept_counts.fold(self._link)
