"""Jobs that call a webhook are sent to a target that answers as the test says."""

from typing import Any

import pytest

from service.errors import InvalidInput
from service.jobs import PermanentError
from service.testing import Jobs

URL = "https://crm.example.com/hooks?source=shop"


async def test_requests_are_recorded_and_answered(jobs: Jobs) -> None:
    jobs.target.answer("https://crm.example.com/", json={"ok": True})
    job = await jobs.enqueue("http.request", {"url": URL, "json": {"invoice": 7}})
    [ran] = await jobs.run_due()
    assert ran.result["status"] == 200
    assert ran.result["body"] == '{"ok": true}'
    [request] = jobs.target.requests
    assert (request.method, request.url, request.json) == ("POST", URL, {"invoice": 7})
    assert request.headers["idempotency-key"] == str(job.id)


async def test_answers_decide_as_those_of_a_real_target(jobs: Jobs) -> None:
    for _ in range(2):
        await jobs.enqueue("http.request", {"url": URL})
    jobs.target.answer(status=503, headers={"Retry-After": "7"}, times=1)
    jobs.target.fail(times=1)
    ran = await jobs.run_due(raise_errors=False)
    assert [(one.outcome, one.delay_seconds) for one in ran] == [("retried", 30), ("retried", 7)]
    assert ran[0].failure == "TargetUnreachable: https://crm.example.com cannot be reached"
    jobs.target.answer(status=422, body="no such invoice")
    await jobs.move_clock(seconds=30)
    with pytest.raises(PermanentError, match=r"422 Unprocessable.*: no such invoice"):
        await jobs.run_due()


async def test_what_may_not_be_called_is_refused_in_a_test_as_well(jobs: Jobs) -> None:
    await jobs.enqueue("http.request", {"url": "http://127.0.0.1/"})
    with pytest.raises(PermanentError, match="loopback"):
        await jobs.run_due()
    assert jobs.target.requests == []


async def test_a_breaker_opens_and_closes_with_the_clock(jobs: Jobs) -> None:
    jobs.target.answer(status=500)
    for _ in range(12):
        await jobs.enqueue("http.request", {"url": URL})
    await jobs.run_due(raise_errors=False)
    tried = len(jobs.target.requests)
    assert tried < 12
    jobs.target.answer(status=204)
    ran: list[Any] = []
    for _ in range(3):
        await jobs.move_clock(minutes=10)
        ran += await jobs.run_due()
    assert [one.outcome for one in ran] == ["succeeded"] * 12
    assert len(jobs.target.requests) == tried + 12


async def test_callbacks_go_to_the_target(jobs: Jobs) -> None:
    callback = {"url": "https://shop.example.com/done"}
    await jobs.enqueue("http.request", {"url": URL}, callback=callback)
    assert len(await jobs.run_due()) == 2
    assert jobs.target.requests[-1].url == "https://shop.example.com/done"


def test_a_rule_that_cannot_be_is_refused(jobs: Jobs) -> None:
    with pytest.raises(InvalidInput, match="status from 100 to 599, not 700"):
        jobs.target.answer(status=700)
    with pytest.raises(InvalidInput, match="json or a body, not both"):
        jobs.target.answer(json={}, body="x")
