"""A worker of the kit and a service that answers as it is told: what no real one does when it is asked to."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from finmind_client.worker import JobContext, Worker
from tests.jobs.waiting import until_true

KNOWN = {
    "worker_id": 1,
    "lease_seconds": 30,
    "heartbeat_seconds": 0.05,
    "max_wait_seconds": 30,
    "drain": False,
}


class Service:
    """Hands out jobs once, and keeps what it is told."""

    def __init__(self, *job_types: str) -> None:
        self.jobs = [
            {
                "id": number, "lease_token": number, "lease_seconds": 30, "timeout_seconds": 60,
                "job_type": job_type, "queue": "default", "priority": 2, "attempt": 1, "max_attempts": 4,
                "payload": {"number": number},
            }
            for number, job_type in enumerate(job_types, 1)
        ]  # fmt: skip
        self.states: dict[int, str] = {}
        self.timeout_in_seconds = 50.0
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.refuses: Callable[[str, dict[str, Any]], int | None] = lambda _, __: None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        verb, body = request.url.path.rpartition("/")[2], json.loads(request.content)
        if (status := self.refuses(verb, body)) is not None:
            return httpx.Response(status, json={"title": "Refused", "detail": "as told"})
        answer = getattr(self, f"_{verb}", self._report)(verb, body)
        if verb == "claim" and not answer["jobs"]:
            await asyncio.sleep(0.02)
        return httpx.Response(200, json=answer)

    def of(self, verb: str) -> list[Any]:
        """The jobs that were reported so."""
        return [one["id"] for told, one in self.told if told == verb]

    def _register(self, _: str, __: dict[str, Any]) -> dict[str, Any]:
        return KNOWN

    def _claim(self, _: str, body: dict[str, Any]) -> dict[str, Any]:
        brought, self.jobs = self.jobs[: body["limit"]], self.jobs[body["limit"] :]
        return {"jobs": brought, "drain": False}

    def _heartbeat(self, _: str, body: dict[str, Any]) -> dict[str, Any]:
        over = {"lease_seconds": 0, "timeout_in_seconds": None}
        beats = [
            {**one, "state": self.states.get(one["id"], "held")}
            | (
                {"lease_seconds": 30, "timeout_in_seconds": self.timeout_in_seconds}
                if one["id"] not in self.states
                else over
            )
            for one in body["jobs"]
        ]
        return {"jobs": beats, "drain": False}

    def _stop(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        self.told.append((verb, {"id": body["worker"]}))
        return {"known": True}

    def _report(self, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        self.told += [(verb, one) for one in body["jobs"]]
        return {
            "jobs": [one | {"outcome": "recorded", "status": "SUCCESS"} for one in body["jobs"]]
        }


Begin = Callable[[Service], Worker]


def plain(payload: dict[str, Any]) -> dict[str, Any]:
    return payload


stopped: list[tuple[int, str | None]] = []


def waits(_: dict[str, Any], ctx: JobContext) -> str:
    ctx.wait(60)
    stopped.append((ctx.job_id, ctx.stop_reason))
    return "done"


@pytest.fixture
def begin() -> Iterator[Begin]:
    begun: list[Worker] = []

    def begin(service: Service) -> Worker:
        worker = Worker(
            "http://jobs", name="w:1", concurrency=8, transport=httpx.MockTransport(service)
        )
        worker.handler("plain")(plain)
        worker.handler("waits")(waits)
        worker.start()
        begun.append(worker)
        return worker

    yield begin
    for worker in begun:
        for _ in range(2):
            worker.stop()
        assert worker.wait(20)


async def test_a_job_whose_lease_was_lost_is_stopped_and_not_reported(begin: Begin) -> None:
    service = Service("waits", "waits", "plain")
    service.states = {1: "lease_lost"}
    worker = begin(service)
    await until_true(lambda: stopped[-1:] == [(1, "lease_lost")])
    for _ in range(2):
        worker.stop()
    assert await asyncio.to_thread(worker.wait, 20)
    assert stopped[-1] == (2, "shutdown")
    assert service.of("complete") == [3, 2]
    # The worker's stop is the last that the service is told.
    assert service.told[-1] == ("stop", {"id": "w:1"})


async def test_a_handler_whose_time_is_over_is_stopped_and_the_service_told_if_it_ended_nothing(
    begin: Begin,
) -> None:
    service = Service("waits")
    service.jobs[0]["timeout_seconds"] = 0.05
    service.timeout_in_seconds = 0.02
    begin(service)
    await until_true(lambda: stopped[-1:] == [(1, "timed_out")])
    assert service.of("fail") == []
    await until_true(lambda: service.of("fail") == [1])
    assert service.told[-1][1]["error"]["type"] == "HandlerTimeout"


async def test_a_report_that_is_refused_takes_no_other_along(begin: Begin) -> None:
    service = Service("plain", "plain", "plain", "plain", "plain")
    asked: list[int] = []

    def refuses(verb: str, body: dict[str, Any]) -> int | None:
        asked.append(len(body.get("jobs", ())))
        return 413 if verb == "complete" and 2 in [one["id"] for one in body["jobs"]] else None

    service.refuses = refuses
    begin(service)
    await until_true(lambda: service.of("fail") == [2])
    await until_true(lambda: sorted(service.of("complete")) == [1, 3, 4, 5])
    (failed,) = [one for verb, one in service.told if verb == "fail"]
    assert failed["permanent"] is True
    assert failed["error"]["message"] == "the service refused the job's complete: as told"


async def test_a_claim_whose_answer_was_lost_is_sent_again_with_its_id(begin: Begin) -> None:
    service = Service("plain")
    ids: list[str] = []

    def refuses(verb: str, body: dict[str, Any]) -> int | None:
        if verb == "claim":
            ids.append(body["request_id"])
            return 503 if len(ids) < 3 else None
        return None

    service.refuses = refuses
    begin(service)
    await until_true(lambda: service.of("complete") == [1])
    assert len(set(ids[:3])) == 1
    assert ids[3:4] != ids[:1]
