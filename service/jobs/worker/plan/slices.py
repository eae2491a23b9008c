"""The slices of due times that a sweep takes, from the newest down to the oldest."""

from typing import Final

WHOLE: Final = float("inf")

SLOW_STEP_SECONDS: Final = 0.01
"""A step that takes longer is followed by a smaller one."""

QUICK_STEP_SECONDS: Final = 0.0025

FIRST_SPAN_SECONDS: Final = 1.0
"""The first slice of a new sweep."""

SLOW_SPAN_SECONDS: Final = 60.0
"""The first slice after the whole, or a wider one, was too slow."""

MIN_SPAN_SECONDS: Final = 0.1
MAX_SPAN_SECONDS: Final = 1e9
"""A slice that would be wider is the whole."""

DEPTH_SHARE: Final = 0.02
"""A slice is at least this share of how far down it lies, so that 1,200 steps come to the bottom
whatever they take."""

OLDEST: Final = 0.0
"""Nothing is due before 1970; a job that claims to be is taken by the last step."""


class Slices:
    """Which due times the next step takes, from the newest down to the oldest, round after round.

    As a rule one step takes them all. While a long transaction keeps PostgreSQL from removing the
    index entries of jobs that are gone, a step walks each of them, hundreds of thousands after some
    minutes, and claims would wait for it. Then each step takes a slice, as wide as can be walked in
    some milliseconds. A round that follows one with a slow step begins with a slice again. So does
    the first round: nobody knows yet what there is.
    """

    def __init__(self) -> None:
        self._below = WHOLE
        self._span = FIRST_SPAN_SECONDS
        self._top_span = FIRST_SPAN_SECONDS
        """Of the first slice of a round."""
        self._quick = True
        """Whether every step of this round was quick."""
        self.first_round = True
        """Whether there are due times that no step has come to."""
        self._newest = -WHOLE
        self._quick_below = SLOW_STEP_SECONDS
        """Steps that took less are quick: all until one was slow, few from then on."""

    @property
    def slice(self) -> tuple[float, float]:
        """Due times of the next step, epoch seconds: from (inclusive), and up to (exclusive)."""
        if self._span == WHOLE or self._newest == -WHOLE:
            return -WHOLE, self._below
        top = min(self._below, self._newest)
        low = top - max(self._span, (self._newest - top) * DEPTH_SHARE)
        return (low if low > OLDEST else -WHOLE), self._below

    def saw(self, due_at: float) -> None:
        """By the database's clock it is at least so late: a job due then was claimed, for example."""
        self._newest = max(self._newest, due_at)

    def stepped(self, walked_seconds: float, *, full: bool) -> None:
        """Take in how a step went; one that came back `full` leaves more in the same slice.

        Args:
            walked_seconds: how long it took, without the way to the database and back.
            full: whether it found as many jobs as it asked for.
        """
        low, below = self.slice
        if walked_seconds > SLOW_STEP_SECONDS:
            narrower = self._span * max(SLOW_STEP_SECONDS / walked_seconds, 0.1)
            self._span = min(max(narrower, MIN_SPAN_SECONDS), SLOW_SPAN_SECONDS)
            self._quick_below = QUICK_STEP_SECONDS
        elif walked_seconds < self._quick_below:
            wider = self._span * 4
            self._span = wider if wider <= MAX_SPAN_SECONDS else WHOLE
        self._quick = self._quick and walked_seconds < self._quick_below
        if below == WHOLE:
            self._top_span = self._span
        if full:
            return
        if low == -WHOLE:
            self._begin_round()
        else:
            self._below = low

    def skip_to(self, below: float) -> None:
        """Go on from there, or from the end of the slice: nothing lies in between."""
        low, _ = self.slice
        below = min(low, below)
        if below > OLDEST:
            self._below = below
        else:
            self._begin_round()

    def _begin_round(self) -> None:
        self.first_round = False
        self._below, self._span = WHOLE, WHOLE if self._quick else self._top_span
        self._quick = True
