"""The ledger of a run: what happened, in order, kept outside the database under test.

Every process that takes part (handlers, the probe around a worker, what enqueues jobs, what
injects faults) appends lines to one file. One `write` of whole lines to a file opened with
O_APPEND: lines of several processes do not mix, their order is the order in which they were
written, and what was written is synced before the writer goes on.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, Self

LEDGER_VARIABLE: Final = "TEST_LEDGER"
"""Names the file, in the environment of a process under test."""


class Event(StrEnum):
    """What a line records."""

    OFFERED = "offered"
    """A request to enqueue is about to be sent; detail: the number in its payload."""
    ACKNOWLEDGED = "acknowledged"
    """It was answered with this job (0: which one is not known); detail: the same number."""
    CLAIMED = "claimed"
    START = "start"
    END = "end"
    """The handler came to its end and returns."""
    FAIL = "fail"
    """The handler raises."""
    LEFT = "left"
    """The handler was cancelled, and ends."""
    STEP = "step"
    """The function of a step was called; detail: the step."""
    TRYING = "trying"
    """Something fenced by the token is about to be sent; detail: what."""
    ACCEPTED = "accepted"
    """The database took it; detail: what."""
    REFUSED = "refused"
    """The database did not: the lease no longer held; detail: what."""
    RETRIED_BY_HAND = "retried_by_hand"
    FAULT = "fault"
    """A fault is about to be injected into the process `pid` (0: into all); detail: its kind."""
    OVER = "over"
    """It is over (or, of a kill, done)."""


class Note(NamedTuple):
    """One line of the ledger."""

    event: str
    job_id: int = 0
    attempt: int = 0
    lease_token: int = 0
    pid: int = 0
    at: float = 0.0
    """Monotonic seconds, one clock for all processes of the machine."""
    detail: str = "-"
    """One word."""

    def line(self) -> str:
        """As the file has it."""
        return " ".join(map(str, self)) + "\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        """The note that a line holds."""
        event, job_id, attempt, token, pid, at, detail = line.split()
        return cls(event, int(job_id), int(attempt), int(token), int(pid), float(at), detail)


class Pen:
    """Appends to a ledger; what it wrote is on the disk when `note` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(
        self,
        event: str,
        job_id: int = 0,
        *,
        attempt: int = 0,
        lease_token: int = 0,
        pid: int | None = None,
        detail: object = "-",
    ) -> None:
        """Write one line; `pid` is this process unless another is named."""
        self.write([self.made(event, job_id, attempt, lease_token, pid, detail)])

    def made(
        self,
        event: str,
        job_id: int = 0,
        attempt: int = 0,
        lease_token: int = 0,
        pid: int | None = None,
        detail: object = "-",
    ) -> Note:
        """A note of now, for `write`."""
        writer = os.getpid() if pid is None else pid
        return Note(event, job_id, attempt, lease_token, writer, time.monotonic(), str(detail))

    def write(self, notes: Iterable[Note]) -> None:
        """Write lines that stay together."""
        text = "".join(note.line() for note in notes).encode()
        if text:
            assert os.write(self._file, text) == len(text)
            os.fdatasync(self._file)

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


class Ledger:
    """The recorded notes, in the order in which they were written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gate = path.with_name("gate")
        self._read_up_to = 0
        self._notes: list[Note] = []

    def notes(self) -> list[Note]:
        """Every complete line; each is read once."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._read_up_to)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read_up_to += len(whole)
            self._notes += [Note.parse(line) for line in whole.decode().splitlines()]
        return list(self._notes)

    def of(self, event: str) -> list[Note]:
        """The lines of one event."""
        return [note for note in self.notes() if note.event == event]

    def open_gate(self) -> None:
        """Let `test.gated` jobs go on."""
        self.gate.touch()


def repeated(ids: Iterable[int]) -> set[int]:
    """What occurs more than once."""
    return {job_id for job_id, times in Counter(ids).items() if times > 1}
