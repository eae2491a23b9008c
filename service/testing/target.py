"""A target of `http.request` jobs that answers as it is told, and records what it was sent."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.errors import InvalidInput
from service.jobs import Registry
from service.settings import Settings
from service.targets.answer import Answer, Body
from service.targets.client import Sent, TargetClient, TargetUnreachable
from service.targets.handler import bind
from service.targets.tending import Tending
from service.testing.transaction import TransactionDatabase


@dataclass(frozen=True, slots=True)
class Request:
    """A request that a job sent."""

    method: str
    url: str
    headers: Mapping[str, str]
    """Names in lower case; `idempotency-key` is the id of the job."""
    body: bytes

    @property
    def json(self) -> Any:
        """Its body, which is JSON."""
        return json.loads(self.body)


@dataclass(slots=True)
class _Rule:
    url: str
    reply: Callable[[Sent], Answer]
    times: int | None


class FakeTarget:
    """What every `http.request` job of a test is sent to, callbacks of jobs among them: no network is used.

    All before and behind the network is that of a service: the payload's rules, what may be called, signatures,
    redirects, retries by `Retry-After`, the breaker, the result. Without a rule it answers 200, with no body.
    """

    def __init__(self, database: TransactionDatabase, settings: Settings) -> None:
        self.requests: Final[list[Request]] = []
        """Those that were sent, oldest first."""
        self._rules: list[_Rule] = []
        self.handlers: Final = Registry()
        """The handler of `http.request`."""
        sender = bind(
            database, settings, to=self.handlers, client=_FakeClient(settings, self._reply)
        )
        self._breakers = sender.breakers
        self._tending = Tending(database, sender.breakers)

    def answer(
        self,
        url: str = "",
        *,
        status: int = 200,
        json: Any = None,
        body: bytes | str = b"",
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
    ) -> None:
        """Answer requests so; a later rule goes before an earlier one.

        Args:
            url: what their URLs begin with; any where it is left out.
            status: 100 to 599.
            json: the body, in place of `body`.
            body: the body.
            headers: of the answer.
            times: how many requests; from then on the rules before count again. All where None.

        Raises:
            InvalidInput: the status is none, or `json` and `body` are both given.
        """
        if not 100 <= status <= 599:
            raise InvalidInput(
                f"An answer has a status from 100 to 599, not {status}", field="status"
            )
        if json is not None and body:
            raise InvalidInput("An answer has json or a body, not both", field="body")
        content, given = _content(json, body), dict(headers or {})
        if json is not None:
            given.setdefault("content-type", "application/json")
        lower = {name.lower(): value for name, value in given.items()}

        def reply(request: Sent) -> Answer:
            read = Body("")
            read.take(content)
            return Answer(request.url, 0, status, lower, read.kept, read.is_whole)

        self._rules.insert(0, _Rule(url, reply, times))

    def fail(
        self, url: str = "", why: str = "cannot be reached", *, times: int | None = None
    ) -> None:
        """Have requests fail without an answer; see `answer`.

        Args:
            url: what their URLs begin with; any where it is left out.
            why: what the job's error says behind the name of the target.
            times: how many requests; all where None.
        """

        def reply(request: Sent) -> Answer:
            raise TargetUnreachable(request.url.destination, why)

        self._rules.insert(0, _Rule(url, reply, times))

    def moved(self) -> None:
        """The clock was moved: breakers may let a request through now."""
        self._breakers.forget()

    async def tend(self) -> bool:
        """Hold jobs whose breaker is open, and let go those whose turn has come; whether there may be such."""
        if not self.requests:
            return False
        await self._tending.round()
        return True

    def _reply(self, request: Sent) -> Answer:
        url = str(request.url)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Request(request.method, url, headers, request.body or b""))
        for rule in self._rules:
            if url.startswith(rule.url) and rule.times != 0:
                rule.times = None if rule.times is None else rule.times - 1
                return rule.reply(request)
        return Answer(request.url, 0, 200, {}, b"", is_whole=True)


class _FakeClient(TargetClient):
    """A client whose requests go to a fake target."""

    def __init__(self, settings: Settings, reply: Callable[[Sent], Answer]) -> None:
        super().__init__(settings)
        self._reply = reply

    async def exchange(self, request: Sent, *, until: float) -> Answer:  # noqa: ARG002 - it answers at once
        """Have the target answer."""
        await asyncio.sleep(0)
        return self._reply(request)


def _content(value: Any, body: bytes | str) -> bytes:
    if value is not None:
        return json.dumps(value).encode()
    return body.encode() if isinstance(body, str) else body
