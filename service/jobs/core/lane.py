"""Lanes, positions in them, and what a claim asks of each."""

from typing import Final, NamedTuple

MAX_LANES: Final = 1000
"""Lanes listed at once. Where there are more, one listing goes on behind the last."""


class Lane(NamedTuple):
    """The jobs of one queue and one priority, claimed in the order in which they are due."""

    queue: str
    priority: int


class Position(NamedTuple):
    """A place in a lane, below which a claim does not look: due time (epoch seconds) and id."""

    due_at: float
    job_id: int


LANE_START = Position(float("-inf"), 0)


SLACK_SECONDS = 0.001
"""A due time is not the same to the last digit as a number here and as a time in the database."""


class LaneHead(NamedTuple):
    """A lane that holds jobs, and when the first of them is due."""

    lane: Lane
    due_at: float
    """Epoch seconds."""
    now: float
    """What time it was for the database."""

    @property
    def due_in_seconds(self) -> float:
        """How long until the first job is due; negative where it has been for some time."""
        return self.due_at - self.now

    @property
    def first_at(self) -> float:
        """From when on a look at the lane misses no job, epoch seconds."""
        return self.due_at - SLACK_SECONDS


class LaneRequest(NamedTuple):
    """What one claim asks of one lane: from where, how many at the most, and up to which place."""

    lane: Lane
    floor: Position
    most: int
    due_before: float = float("inf")
    """Epoch seconds; beside that, only what is due."""
    id_before: int = 0
    """Of those due at that very time, only jobs below this one."""
    goes_on: bool = False
    """Whether that place is the end of a window: the lane holds more due jobs, from there on."""

    @property
    def end(self) -> Position:
        """The place up to which is looked, itself excluded."""
        return Position(self.due_before, self.id_before)
