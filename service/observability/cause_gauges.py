"""The gauge of causes of dead letters, which the maintenance leader sets and nobody else."""

from collections.abc import Mapping
from typing import Final

from service.observability.metrics import DEAD_LETTER_GROUPS

STATES: Final = ("unresolved", "resolved", "ignored")


def set_cause_gauges(groups: Mapping[str, int]) -> None:
    """Show how many causes have dead letters, by state."""
    for state in STATES:
        DEAD_LETTER_GROUPS.labels(state).set(groups.get(state, 0))


def clear_cause_gauges() -> None:
    """Show none: only the leader's figures are current."""
    DEAD_LETTER_GROUPS.clear()
