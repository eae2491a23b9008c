"""Starts several `serve` processes on one database, and reads their ledger and table."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.ledger import LEDGER_VARIABLE, Ledger
from tests.conftest import TEST_SECRET

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
STOP_SECONDS = 40.0
POLL_SECONDS = 0.02

T = TypeVar("T")


@dataclass
class Replica:
    """One `serve` process."""

    process: "subprocess.Popen[bytes]"
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """Everything that it wrote to standard error."""
        return self.log.read_text(errors="replace")

    async def ready(self) -> None:
        """Return once it listens and calls itself ready."""

        async def listens() -> bool:
            assert self.process.poll() is None, f"it ended: {self.said()}"
            found = re.search(r"(?:Metrics +|\"url\": \")(http://[\w.:]+)", self.said())
            self.url = found[1] if found else ""
            return bool(found)

        await until(listens, START_SECONDS, what="a replica that listens")

        async def is_ready() -> bool:
            return (await self._get("/health/ready")).status_code == 200

        await until(is_ready, START_SECONDS, what="a replica that is ready")

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry the labels."""
        text = (await self._get("/metrics")).raise_for_status().text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def leads(self) -> bool:
        """Whether it is the maintenance leader."""
        return await self.metric("finmind_worker_leader") == 1

    def kill(self) -> None:
        """kill -9, and wait for its end."""
        self.process.kill()
        self.process.wait(timeout=10)

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, STOP_SECONDS)

    async def _get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=10) as client:
            return await client.get(path)


class Fleet:
    """Starts replicas on one database; `stop` leaves none of them running."""

    def __init__(self, directory: Path) -> None:
        self.ledger = Ledger(directory / "ledger")
        self.replicas: list[Replica] = []
        self._directory = directory

    async def start(self, count: int, dsn: str, **environment: object) -> list[Replica]:
        """Start `count` replicas at once; returns when all of them are ready."""
        begun = [self.spawn(dsn, module="service", **environment) for _ in range(count)]
        await asyncio.gather(*(replica.ready() for replica in begun))
        return begun

    def spawn(
        self, dsn: str, *command: str, module: str = "service", **environment: object
    ) -> Replica:
        """Start one process of `module`, `serve` unless told otherwise; it may not be ready yet."""
        log = self._directory / f"replica-{len(self.replicas)}.log"
        settings = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "ENVIRONMENT": "test",
            "JWT_SECRET": TEST_SECRET,
            "DATABASE_URL": dsn,
            "DATABASE_POOL_SIZE": 5,
            "DATA_DIR": self._directory / "data",
            "PORT": 0,
            "HANDLER_MODULES": "tests.processes.handlers",
            LEDGER_VARIABLE: self.ledger.path,
            "POLL_MAX_SECONDS": 0.2,
            "UNKNOWN_TYPE_GRACE_SECONDS": 3600,
            "LOG_LEVEL": "WARNING",
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *(command or ("serve",))],
                env={name: str(value) for name, value in (settings | environment).items()},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.replicas.append(Replica(process, log))
        return self.replicas[-1]

    def stop(self) -> None:
        """Kill whatever still runs."""
        for replica in self.replicas:
            replica.kill()

    async def noted(self, event: str, count: int, *, seconds: float = 60.0) -> None:
        """Wait until the handlers have noted `count` events of one kind."""

        async def enough() -> bool:
            return len(self.ledger.of(event)) >= count

        await until(enough, seconds, what=f"{count} times {event!r} in the ledger")

    async def total(self, name: str, **labels: str) -> float:
        """A metric summed over the replicas that run."""
        running = [replica for replica in self.replicas if replica.process.poll() is None]
        return sum(await asyncio.gather(*(r.metric(name, **labels) for r in running)))

    def said(self) -> str:
        """What the replicas wrote, for the message of a failed test."""
        return "\n".join(f"--- {r.pid}\n{r.said()[-2000:]}" for r in self.replicas)


async def until(condition: Callable[[], Awaitable[T]], seconds: float, *, what: str) -> T:
    """Wait for the condition to hold and return what it gave; fail once the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := await condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:g} s"
        await asyncio.sleep(POLL_SECONDS)
    return answer
