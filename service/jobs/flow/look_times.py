"""When to look at each of many things next, the soonest first."""

import heapq
from collections.abc import Iterator


class LookTimes:
    """Names, and a time for each."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []
        """A heap; of entries whose time has been changed since, the old ones are left in it until they come."""

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __getitem__(self, name: str) -> float:
        return self._at[name]

    def set(self, name: str, at: float) -> None:
        """Look at it then, in place of when it was to be looked at."""
        if self._at.get(name) != at:
            self._at[name] = at
            heapq.heappush(self._order, (at, name))

    def drop(self, name: str) -> None:
        """Look at it no more."""
        self._at.pop(name, None)

    @property
    def next_at(self) -> float:
        """When the first is to be looked at; infinite where there is none."""
        while self._order:
            at, name = self._order[0]
            if self._at.get(name) == at:
                return at
            heapq.heappop(self._order)
        return float("inf")

    def due(self, now: float, *, limit: int) -> list[str]:
        """Up to `limit` that are to be looked at by now; they stay due until their time is set anew."""
        found: list[tuple[float, str]] = []
        while len(found) < limit and self.next_at <= now:
            entry = heapq.heappop(self._order)
            if not found or found[-1] != entry:  # its time was changed, and back again
                found.append(entry)
        for entry in found:
            heapq.heappush(self._order, entry)
        return [name for _, name in found]
