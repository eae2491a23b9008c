"""What a chunk may hold, and how long it may fill: the rule of a handler that takes jobs in groups."""

from dataclasses import dataclass
from typing import Final

from service.errors import ConfigurationError
from service.jobs.core.encoding import MAX_STATEMENT_BYTES

MAX_CHUNK_JOBS: Final = 1_000
MAX_CHUNK_SECONDS: Final = 60.0
DEFAULT_CHUNK_SECONDS: Final = 0.5

MAX_CHUNK_BYTES: Final = MAX_STATEMENT_BYTES
"""Limit on the payloads of one chunk; a larger payload is a chunk of its own."""


@dataclass(frozen=True, slots=True)
class ChunkRule:
    """How jobs of one type are put together.

    Args:
        jobs: limit on the jobs of one chunk.
        seconds: how long the first job of a chunk waits for others.
    """

    jobs: int
    seconds: float


def chunk_rule(job_type: str, chunk: object, chunk_seconds: object) -> ChunkRule | None:
    """The rule that `chunk` and `chunk_seconds` of a handler make; None where both are.

    Raises:
        ConfigurationError: one of them is out of bounds, or the second stands alone.
    """
    if chunk is None:
        if chunk_seconds is not None:
            raise _refused(
                job_type, f"chunk_seconds is {chunk_seconds!r}, and only a handler with chunk waits"
            )
        return None
    if not isinstance(chunk, int) or chunk is True or not 1 <= chunk <= MAX_CHUNK_JOBS:
        raise _refused(job_type, f"chunk is {chunk!r}, expected 1 to {MAX_CHUNK_JOBS} jobs")
    seconds = DEFAULT_CHUNK_SECONDS if chunk_seconds is None else chunk_seconds
    if (
        not isinstance(seconds, int | float)
        or isinstance(seconds, bool)
        or not 0 <= seconds <= MAX_CHUNK_SECONDS
    ):
        raise _refused(
            job_type, f"chunk_seconds is {seconds!r}, expected 0 to {MAX_CHUNK_SECONDS:g} seconds"
        )
    return ChunkRule(chunk, float(seconds))


def _refused(job_type: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"Handler {job_type!r}: {problem}")
