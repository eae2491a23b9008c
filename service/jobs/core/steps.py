"""Steps of a handler: what is kept of them, and how they are named."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from service.jobs.core.claimed_job import Lease
from service.jobs.core.outcomes import PermanentError

MAX_NAME_CHARS: Final = 200
NAME_RULE: Final = f"1 to {MAX_NAME_CHARS} characters, none of them a control character"

_NAME: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{{1,{MAX_NAME_CHARS}}}")


class StepError(PermanentError):
    """A step is used wrongly, or its result cannot be kept: a retry would come to the same."""


class AttemptStopped(Exception):
    """The attempt has lost its lease or was told to stop: nothing more of it is stored."""


class StepKind(StrEnum):
    """What a step does."""

    CALL = "call"
    """It calls a function, and keeps its result."""


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step as the database keeps it."""

    kind: str
    result: str | None
    """JSON text; None: null."""

    @property
    def size(self) -> int:
        """How many bytes its result takes."""
        return size_of(self.result)


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step that is done, on its way to the database."""

    lease: Lease
    job_type: str
    name: str
    kind: StepKind
    attempt: int
    seconds: float
    """How long ago it began when it is stored, but for the way to the database."""
    result: str | None

    @property
    def size(self) -> int:
        """How many bytes its result takes."""
        return size_of(self.result)


def size_of(result: str | None) -> int:
    """How many bytes a result takes as JSON."""
    return 0 if result is None else len(result.encode())


def check_name(name: object) -> None:
    """Refuse what no step may be called.

    Raises:
        StepError: see `NAME_RULE`.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise StepError(f"{name!r:.100} is not a name of a step: expected {NAME_RULE}")
