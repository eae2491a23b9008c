"""An open-loop client: enqueues jobs at a steady rate whatever is answered, and records the answers."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from tests.chaos.ledger import Event, Pen
from tests.chaos.serving import bearer

MAX_WAITING: Final = 100
"""Requests in progress at once. The client looks at each of them for each: 500 kept one so busy on a slow
machine that the service hung up on connections on which it had sent nothing in time."""
REQUEST_SECONDS: Final = 15.0
KEEPALIVE_SECONDS: Final = 2.0
"""Shorter than the server's five: it must not hang up just as the next request is sent."""

Body = Callable[[int], dict[str, Any]]
"""The request for job number n; its payload must hold that number."""


class Enqueuer:
    """`POST /jobs` at `rate` a second, each noted before it is sent and once it is answered."""

    def __init__(self, url: str, pen: Pen, body: Body, *, rate: float) -> None:
        self.answers: Counter[str] = Counter()
        """Status codes, and errors by their names."""
        self.slowest_seconds = 0.0
        self.offered = 0
        self._url = url
        self._pen = pen
        self._body = body
        self._rate = rate

    @asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        """Ask until the block ends; every request is answered, or given up, when it has."""
        limits = httpx.Limits(
            max_connections=MAX_WAITING,
            max_keepalive_connections=50,
            keepalive_expiry=KEEPALIVE_SECONDS,
        )
        async with httpx.AsyncClient(
            base_url=self._url, headers=bearer(), timeout=REQUEST_SECONDS, limits=limits
        ) as client:
            asking = asyncio.create_task(self._ask(client), name="enqueuer")
            try:
                yield
            finally:
                asking.cancel()
                await asyncio.wait({asking})
            assert asking.cancelled(), asking.exception()

    async def _ask(self, client: httpx.AsyncClient) -> None:
        requests: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        try:
            while True:
                due = int((time.monotonic() - began) * self._rate) + 1
                while self.offered < due and len(requests) < MAX_WAITING:
                    self.offered += 1
                    request = asyncio.create_task(self._request(client, self.offered))
                    requests.add(request)
                    request.add_done_callback(requests.discard)
                await asyncio.sleep(max(0.001, began + due / self._rate - time.monotonic()))
        finally:
            if requests:
                await asyncio.wait(requests)

    async def _request(self, client: httpx.AsyncClient, number: int) -> None:
        body = self._body(number)
        assert body["payload"]["number"] == number
        self._pen.note(Event.OFFERED, detail=number)
        began = time.monotonic()
        try:
            answer = await client.post("/jobs", json=body)
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
        else:
            self.answers[str(answer.status_code)] += 1
            if answer.status_code == 201:
                self._pen.note(Event.ACKNOWLEDGED, answer.json()["id"], detail=number)
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
