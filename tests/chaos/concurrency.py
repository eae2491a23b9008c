"""How many runs of a group went on at once, as the ledger tells it.

A run goes on from the start of its handler to its end, or to the death of its process. One whose lease was
lost goes on until another process claims its job: from then on the database knows nothing of it, and no
limit can hold it. Those are counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.chaos.checker import Finding
from tests.chaos.ledger import Event, Note

KEY_LIMIT: Final = 3
"""How many `chaos.keyed` jobs with one concurrency key may run at once."""
ENDS: Final = frozenset({Event.END, Event.FAIL, Event.LEFT})


@dataclass
class Concurrency:
    """What went on at once."""

    peaks: Counter[str] = field(default_factory=Counter)
    """Of each group the highest number of runs."""
    over: list[Finding] = field(default_factory=list)
    """Runs that began while as many of their group went on as its limit allows."""
    taken_over: int = 0
    """Runs whose job another process claimed before their handler had ended."""
    killed: int = 0
    """Runs that ended with their process."""


def concurrency(
    notes: Iterable[Note], groups: Mapping[int, Iterable[str]], limits: Mapping[str, int]
) -> Concurrency:
    """Replay the ledger.

    Args:
        notes: the ledger, in order.
        groups: those that each job belongs to.
        limits: how many runs of each group may go on at once.
    """
    found = Concurrency()
    going_on: dict[int, Note] = {}
    running: Counter[str] = Counter()

    def end(job_id: int) -> None:
        going_on.pop(job_id)
        running.subtract(groups[job_id])

    for note in notes:
        begun = going_on.get(note.job_id)
        if note.event == Event.START:
            going_on[note.job_id] = note
            for group in groups[note.job_id]:
                running[group] += 1
                found.peaks[group] = max(found.peaks[group], running[group])
                if running[group] > limits[group]:
                    why = f"was run {running[group]} of {group} at once, in {note.pid}"
                    found.over.append(Finding(note.job_id, why))
        elif note.event in ENDS and begun and begun.lease_token == note.lease_token:
            end(note.job_id)
        elif note.event == Event.CLAIMED and begun and begun.lease_token < note.lease_token:
            found.taken_over += 1
            end(note.job_id)
        elif note.event == Event.OVER and note.detail == "kill":
            for job_id in [job for job, run in going_on.items() if run.pid == note.pid]:
                found.killed += 1
                end(job_id)
    return found
