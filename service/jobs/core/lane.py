"""Lanes, positions in them, and what a claim asks of each."""

from typing import Final, NamedTuple

MAX_LANES: Final = 1000
"""Lanes listed at once. Where there are more, one listing goes on behind the last."""


class Lane(NamedTuple):
    """The jobs of one queue and one priority, claimed in the order in which they are due."""

    queue: str
    priority: int


class Position(NamedTuple):
    """A position in a lane: due time (epoch seconds) and id."""

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
    """What one claim asks of one lane: from which position, up to how many jobs, up to which position."""

    lane: Lane
    start: Position
    limit: int
    due_before: float = float("inf")
    """Epoch seconds; beside that, only what is due."""
    id_before: int = 0
    """Of those due at that very time, only jobs below this one."""
    continues: bool = False
    """Whether that position ends a window: the lane holds more due jobs behind it."""
    unkeyed: bool = False
    """Whether only jobs without a concurrency key are wanted, and those of dead workers: the keys of
    its queue take turns."""

    @property
    def end(self) -> Position:
        """The position up to which the claim looks, itself excluded."""
        return Position(self.due_before, self.id_before)


class KeysRequest(NamedTuple):
    """What one claim asks of the concurrency keys of one lane, which take turns."""

    lane: Lane
    after_key: str
    """It begins with the key behind this one, and goes round."""
    limit: int


class KeysWalk(NamedTuple):
    """How far such a claim went."""

    last_key: str
    """The last key that it looked at."""
    whole: bool
    """Whether it came to every key of the lane."""
