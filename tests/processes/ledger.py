"""What handlers write down outside the database, and how a test reads it."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

LEDGER_VARIABLE: Final = "TEST_LEDGER"
"""Names the file, in the environment of a replica."""


class Note(NamedTuple):
    """One line of the ledger."""

    event: str
    job_id: int
    attempt: int
    lease_token: int
    pid: int


class Ledger:
    """What the handlers wrote down, in the order in which they did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gate = path.with_name("gate")

    def notes(self) -> list[Note]:
        """Every complete line."""
        text = self.path.read_text() if self.path.exists() else ""
        return [
            Note(event, *map(int, numbers))
            for event, *numbers in (line.split() for line in text.splitlines())
        ]

    def of(self, event: str) -> list[Note]:
        """The lines of one event."""
        return [note for note in self.notes() if note.event == event]

    def size(self) -> int:
        """Bytes written so far: cheap to poll."""
        return self.path.stat().st_size if self.path.exists() else 0

    def open_gate(self) -> None:
        """Let `test.gated` jobs go on."""
        self.gate.touch()


def repeated(ids: Iterable[int]) -> set[int]:
    """What occurs more than once."""
    return {job_id for job_id, times in Counter(ids).items() if times > 1}
