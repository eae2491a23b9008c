"""What a worker and a process of handlers tell each other: frames of a length and a body.

To the process bodies are pickled: it trusts its worker. From it they are JSON, which no handler can make
its worker run, and which has a limit.
"""

import json
import pickle
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.jobs.core.job import JobId, LeaseToken
from service.jobs.handlers.importable import Importable

LENGTH: Final = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Start:
    """The first message: settings of the worker that matter to handlers."""

    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """Import a handler, and the model of its payloads."""

    function: Importable
    model: Importable | None


@dataclass(frozen=True, slots=True)
class Run:
    """Run one attempt."""

    id: JobId
    job_type: str
    attempt: int
    is_last_attempt: bool
    lease_token: LeaseToken
    function: Importable
    model: Importable | None
    payload: str
    """JSON text, decrypted."""
    takes_context: bool
    captures_logging: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody asked for the cancel of the job that runs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler asked for through its context."""

    ask: int
    value: Any = None
    error: str | None = None


ToProcess = Start | Load | Run | Cancel | Answer


def to_process(message: ToProcess) -> bytes:
    """A message to the process, framed."""
    return _framed(pickle.dumps(message))


def from_process(**message: Any) -> bytes:
    """A message of the process, framed."""
    # Lone surrogates of a handler's words are escaped, not refused.
    return _framed(json.dumps(message).encode())


def _framed(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


class TooLong(Exception):
    """A message is longer than any that the other side should send."""


class Frames:
    """Cuts what comes out of a pipe into bodies."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()

    def take(self, data: bytes) -> Iterator[bytes]:
        """The bodies that are complete now.

        Raises:
            TooLong: the next one is over the limit.
        """
        self._held += data
        while len(self._held) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._held)
            if size > self._max_bytes:
                raise TooLong(f"a message of {size} bytes; at most {self._max_bytes} are taken")
            end = LENGTH.size + size
            if len(self._held) < end:
                return
            yield bytes(self._held[LENGTH.size : end])
            del self._held[:end]
