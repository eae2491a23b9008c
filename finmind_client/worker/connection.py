"""The worker's calls: each is sent once, and whoever sends it decides about another time."""

import logging
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx

from finmind_client.async_client import AsyncClient
from finmind_client.calls import Call
from finmind_client.errors import ApiError, FinMindError, NotReached
from finmind_client.retries import Retry
from finmind_client.worker import clock

T = TypeVar("T")

log: Final = logging.getLogger("finmind_client.worker")
"""What a worker says of itself."""

_TRY_AGAIN: Final = frozenset({408, 425, 429})
"""Refusals that are no fault of the request."""
_CONTENT: Final = frozenset({400, 413, 422})


def is_refusal(error: FinMindError) -> bool:
    """Whether the service refuses the request: sent again, it is refused again."""
    return isinstance(error, ApiError) and error.status < 500 and error.status not in _TRY_AGAIN


def is_refused_content(error: FinMindError) -> bool:
    """The same, where what is sent is at fault, and not who sends it or where."""
    return isinstance(error, ApiError) and error.status in _CONTENT


def asked_pause(error: FinMindError) -> float | None:
    """How long the service wants to be left alone."""
    return error.retry_after_seconds if isinstance(error, ApiError) else None


class Connection:
    """Sends calls to one service as one worker; logs when it is away, and when it is back."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        worker: str,
        timeout_seconds: float,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._client = AsyncClient(
            url,
            token=token,
            timeout_seconds=timeout_seconds,
            retry=Retry(attempts=1),
            transport=transport,
        )
        self.worker: Final = worker
        self._away_since: float | None = None

    async def __aenter__(self) -> Self:
        """Nothing is connected yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def send(self, call: Call[T]) -> T:
        """Make a call once.

        Raises:
            ApiError: the service refused it, or cannot do it now.
            NotReached: it was not answered, or by something that is not the service.
        """
        try:
            answer = await self._client.send(call)
        except FinMindError as error:
            if not is_refusal(error):
                self._is_away(error)
            raise
        except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
            unreadable = NotReached(
                f"{call.method} {call.path} was answered by something that is not the service: "
                f"{type(error).__name__}: {error}"
            )
            self._is_away(unreadable)
            raise unreadable from error
        if self._away_since is not None:
            log.info("The service answers again after %.1f s", clock.now() - self._away_since)
            self._away_since = None
        return answer

    def _is_away(self, error: FinMindError) -> None:
        if self._away_since is None:
            self._away_since = clock.now()
            log.warning("The service cannot be used, and is tried again: %s", error)
