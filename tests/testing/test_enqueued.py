"""A test asserts what was enqueued, and reads what was where it fails."""

from typing import Any
from unittest.mock import ANY

import pytest

from service.errors import InvalidInput
from service.jobs import Registry
from service.testing import Jobs
from service.testing.enqueued import differences


@pytest.mark.parametrize(
    ("value", "wanted", "where"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 2}}, []),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, []),
        ({"a": [1, 2]}, {"a": [1]}, ["payload.a"]),
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": 3}}, ["payload.a.b", "payload.a.c (missing)"]),
        ({"a": 1}, {"a": ANY}, []),
        ({}, {"a": None}, ["payload.a (missing)"]),
        ({"a": 1}, [], ["payload"]),
        (7, 7, []),
    ],
)
def test_of_objects_some_members_are_enough(value: Any, wanted: Any, where: list[str]) -> None:
    assert differences(value, wanted) == where


async def test_the_options_of_a_job_are_compared(jobs: Jobs) -> None:
    at = await jobs.move_clock(hours=1)
    await jobs.enqueue(
        "mail",
        {"to": "ada", "text": {"lines": 3}},
        queue="slow",
        priority=1,
        run_at=at,
        unique_key="k",
    )
    job = await jobs.assert_enqueued(
        "mail", {"text": {"lines": 3}}, queue="slow", priority=1, run_at=at, unique_key="k", count=1
    )
    assert job.payload["to"] == "ada"
    await jobs.assert_not_enqueued("mail", {"to": "bob"})
    await jobs.assert_not_enqueued("mail", queue="default")
    assert [one.id for one in await jobs.enqueued(queue="slow")] == [job.id]


async def test_a_failure_shows_what_was_enqueued_and_how_it_differs(jobs: Jobs) -> None:
    with pytest.raises(AssertionError, match="Nothing was enqueued in this test"):
        await jobs.assert_enqueued("mail")
    await jobs.enqueue("mail", {"to": "ada", "n": 1}, queue="slow")
    await jobs.enqueue("index")
    with pytest.raises(AssertionError) as failed:
        await jobs.assert_enqueued("mail", {"to": "bob", "cc": "eve"}, queue="fast", priority=2)
    assert str(failed.value) == (
        'no job mail with {"to": "bob", "cc": "eve"} queue="fast" priority=2 was enqueued. These were:\n'
        '  2 index {} queue="default", status="PENDING", priority=2\n'
        '  1 mail {"n": 1, "to": "ada"} queue="slow", status="PENDING", priority=2'
        "   <- differs in payload.to, payload.cc (missing), queue"
    )
    with pytest.raises(AssertionError, match="1 job mail was enqueued, expected 2"):
        await jobs.assert_enqueued("mail", count=2)
    with pytest.raises(
        AssertionError, match="expected no job of any type, and 2 were enqueued:\n  1 mail"
    ):
        await jobs.assert_not_enqueued()


async def test_what_cannot_be_asked_is_refused(jobs: Jobs) -> None:
    with pytest.raises(InvalidInput, match="got count=0, expected 1 or more; assert_not_enqueued"):
        await jobs.assert_enqueued("mail", count=0)
    with pytest.raises(InvalidInput, match="que is not an option of a job that can be looked for"):
        await jobs.assert_enqueued("mail", que="slow")


async def test_encrypted_members_are_compared_in_plain(jobs: Jobs, handlers: Registry) -> None:
    handlers.handler("charge")(lambda payload: payload["card"][-4:])
    await jobs.enqueue("charge", {"card": "4111", "amount": 7}, encrypt=["card"])
    job = await jobs.assert_enqueued("charge", {"card": "4111", "amount": 7})
    assert "card" not in job.payload
    [ran] = await jobs.run_due()
    assert (ran.payload["card"], ran.result) == ("4111", "4111")
