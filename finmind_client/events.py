"""Without asyncio. Made of `async_events.py`: change that, and run `make docs`."""

import time
from collections.abc import Iterator
from typing import Final

import httpx

from finmind_client import calls
from finmind_client.errors import ApiError, NotReached
from finmind_client.job_events import EventReader, JobEvent
from finmind_client.retries import Retry, may_repeat

QUIET_SECONDS: Final = 45.0
"""How long a stream may say nothing: the service says something every 15 s."""


def follow(
    http: httpx.Client,
    job_id: int,
    *,
    retry: Retry,
    timeout_seconds: float,
    last_event_id: str | None,
) -> Iterator[JobEvent]:
    """The events of a job until its end; see `Client.events`."""
    path, failures, seen = f"/jobs/{job_id}/events", 0, last_event_id
    timeouts = httpx.Timeout(timeout_seconds, read=max(timeout_seconds, QUIET_SECONDS))
    while True:
        reader = EventReader()
        error: httpx.TransportError | ApiError | None = None
        try:
            for event in _stream(http, path, reader, last_event_id=seen, timeouts=timeouts):
                seen = event.id or seen
                yield event
        except (httpx.TransportError, ApiError) as caught:
            error = caught
        if reader.ended:
            return
        # A stream that lasted is no failure, also one that had nothing to say.
        failures = 1 if reader.began else failures + 1
        delay = _delay(path, failures, error, retry=retry)
        time.sleep(reader.retry_seconds if error is None else delay)


def _stream(
    http: httpx.Client,
    path: str,
    reader: EventReader,
    *,
    last_event_id: str | None,
    timeouts: httpx.Timeout,
) -> Iterator[JobEvent]:
    """The events of one connection."""
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    with http.stream("GET", path, headers=headers, timeout=timeouts) as answer:
        if answer.status_code == 204:  # the end was read before
            reader.ended = True
            return
        if not answer.is_success:
            answer.read()
            raise calls.failed(answer)
        for piece in answer.iter_bytes():
            for event in _events(path, reader, piece):
                yield event
            if reader.ended:
                return


def _events(path: str, reader: EventReader, piece: bytes) -> list[JobEvent]:
    try:
        return list(reader.feed(piece))
    except ValueError as error:
        raise NotReached(
            f"GET {path} was answered by something that is not the service: {error}"
        ) from error


def _delay(
    path: str, failures: int, error: httpx.TransportError | ApiError | None, *, retry: Retry
) -> float:
    """How long until the next connection.

    Raises:
        ApiError: the service refuses it, or has so too often.
        NotReached: it was cut off too often.
    """
    if isinstance(error, ApiError):
        if not may_repeat(status=error.status, error=None, repeatable=True):
            raise error
        delay = retry.delay(failures, error.retry_after_seconds)
        if delay is None:
            raise error
        return delay
    delay = retry.delay(failures, None)
    if delay is None and error is not None:
        raise NotReached(
            f"GET {path} was cut off {failures} times in a row: {type(error).__name__}"
        ) from error
    return delay or 0.0
