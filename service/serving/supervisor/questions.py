"""What a supervisor asks its workers: whether they are ready, and their metrics."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from service.serving.supervisor.fleet import Fleet
from service.serving.supervisor.worker_process import WorkerProcess

ANSWER_SECONDS: Final = 5.0
"""How long a worker may take to answer: its checks of the database take a second at most."""
LIFE_SECONDS: Final = 0.8
"""How long it may take to say that it lives: who asks the supervisor waits for a second."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether all workers are ready, and one check for each."""

    ready: bool
    checks: list[dict[str, Any]]


class Questions:
    """Asks all workers at once."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._client = httpx.AsyncClient(trust_env=False)
        self._lock = asyncio.Lock()
        self._last: tuple[float, Readiness] | None = None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def lifeless(self) -> list[int]:
        """The numbers of the processes that are asked and do not answer.

        One that starts does not listen yet, and one that stops no more.
        """
        asked = {number: one for number, one in self._fleet.running().items() if one.port}
        answers = await asyncio.gather(
            *(self._get(one, "/health/live", {}, LIFE_SECONDS) for one in asked.values())
        )
        return [
            number
            for number, answer in zip(asked, answers, strict=True)
            if isinstance(answer, httpx.TimeoutException)
        ]

    async def readiness(self) -> Readiness:
        """Ready where every process is: it runs, and says so itself."""
        asked_at = time.monotonic()
        async with self._lock:
            # A round that began after this call answers it too.
            if self._last is not None and self._last[0] >= asked_at:
                return self._last[1]
            began_at = time.monotonic()
            running = self._fleet.running()
            checks = await asyncio.gather(
                *(self._check(number, running.get(number)) for number in range(self._fleet.count))
            )
            if self._fleet.stopping:
                checks.append({"name": "running", "ok": False, "detail": "shutting down"})
            readiness = Readiness(all(check["ok"] for check in checks), checks)
            self._last = (began_at, readiness)
            return readiness

    async def metrics(self, headers: Mapping[str, str]) -> dict[int, httpx.Response]:
        """What the processes that answer at all say to a scrape with these headers, by number."""
        asked = {
            number: self._get(process, "/metrics", headers)
            for number, process in self._fleet.running().items()
        }
        answers = await asyncio.gather(*asked.values())
        return {
            number: answer
            for number, answer in zip(asked, answers, strict=True)
            if isinstance(answer, httpx.Response)
        }

    async def _check(self, number: int, process: WorkerProcess | None) -> dict[str, Any]:
        if process is None:
            ok, detail = False, "does not run: it is started again"
        elif process.port is None:
            ok, detail = False, f"is starting (process {process.pid})"
        else:
            answer = await self._get(process, "/health/ready", {})
            ok = isinstance(answer, httpx.Response) and answer.status_code == 200
            detail = _why(answer) if not ok else f"ready (process {process.pid})"
        return {"name": f"worker {number}", "ok": ok, "detail": detail}

    async def _get(
        self,
        process: WorkerProcess,
        path: str,
        headers: Mapping[str, str],
        seconds: float = ANSWER_SECONDS,
    ) -> httpx.Response | httpx.HTTPError:
        if process.port is None:
            return httpx.ConnectError("it does not listen yet")
        try:
            url = f"http://127.0.0.1:{process.port}{path}"
            return await self._client.get(url, headers=dict(headers), timeout=seconds)
        except httpx.HTTPError as error:
            return error


def _why(answer: httpx.Response | httpx.HTTPError) -> str:
    if isinstance(answer, httpx.TimeoutException):
        return f"no answer within {ANSWER_SECONDS:g} s"
    if isinstance(answer, httpx.HTTPError):
        return "takes no connection: it stops"
    try:
        failed = [check for check in answer.json()["checks"] if not check["ok"]]
        return "; ".join(f"{check['name']}: {check['detail']}" for check in failed)
    except (ValueError, LookupError, TypeError):
        return f"answered {answer.status_code}"
