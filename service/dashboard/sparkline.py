"""A small drawing of counts by the hour, for a row of a list."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from service.dashboard.formats import number

WIDTH: Final = 96
HEIGHT: Final = 24
LOWEST: Final = 2.0
"""How high a bar is drawn for one death, so that it is seen beside thousands."""


@dataclass(frozen=True, slots=True)
class Sparkline:
    """Bars side by side, and the same in words."""

    path: str
    """The data of an SVG path."""
    words: str
    """What it shows: its name for a screen reader, and on hover."""
    width: int = WIDTH
    height: int = HEIGHT

    @classmethod
    def of_hours(cls, counts: Sequence[int], *, what: str) -> Self:
        """Counts by hour, oldest first; the last one is the current hour."""
        highest = max(counts, default=0)
        step = WIDTH / max(1, len(counts))
        bars = []
        for place, count in enumerate(counts):
            if count > 0:
                high = max(LOWEST, HEIGHT * count / highest)
                x, y = place * step, HEIGHT - high
                bars.append(f"M{x:.1f} {HEIGHT}V{y:.1f}h{step * 0.8:.1f}V{HEIGHT}z")
        return cls("".join(bars), _words(counts, highest, what))


def _words(counts: Sequence[int], highest: int, what: str) -> str:
    total = sum(counts)
    if not total:
        return f"{what}: none in {len(counts)} hours"
    back = len(counts) - 1 - max(place for place, count in enumerate(counts) if count == highest)
    when = "in this hour" if back == 0 else f"{back} hour{'s' if back > 1 else ''} ago"
    return f"{what}: {number(total)} in {len(counts)} hours, most {when} ({number(highest)})"
