"""Rules of the worker kit that need no service."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from finmind_client.worker import PermanentError, RetryAfter, Snooze, Worker
from finmind_client.worker.clock import Pauses
from finmind_client.worker.encoding import NotStorable, encode_result
from finmind_client.worker.outcomes import Outcome
from tests.client import kit_handlers


class NoSeconds(RetryAfter):
    def __init__(self) -> None:
        super().__init__(1.0)
        self.seconds = "soon"  # type: ignore[assignment]


class NoWords(Exception):
    def __str__(self) -> str:
        raise LookupError


def members(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b"{%s}" % outcome.members)
    return found


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([RetryAfter(900), PermanentError("no use"), ValueError()], {"permanent": True}),
        ([ExceptionGroup("inner", [PermanentError("no")]), Snooze(5)], {"permanent": True}),
        ([RetryAfter(60), ValueError(), RetryAfter(900)], {"retry_after_seconds": 900}),
        ([Snooze(2000), RetryAfter(900)], {"retry_after_seconds": 900}),
        ([ValueError(), Snooze(900)], {}),
        ([Snooze(1), Snooze(2)], {"seconds": 2}),
        ([RetryAfter(1e9)], {"retry_after_seconds": 604_800}),
        ([NoSeconds()], {}),
        ([NoWords()], {}),
    ],
)
def test_the_strictest_error_decides_as_in_the_service(
    errors: list[Exception], expected: dict[str, Any]
) -> None:
    outcome = Outcome.of_error(ExceptionGroup("all", errors))
    told = members(outcome)
    error = told.pop("error", None)
    assert told == expected
    assert outcome.verb == ("snooze" if "seconds" in expected else "fail")
    assert outcome.by_error == expected.keys().isdisjoint({"permanent", "seconds"})
    if error is not None:
        assert error["type"] == "ExceptionGroup"
        leaf = type(errors[-1]).__name__
        assert leaf == "ExceptionGroup" or leaf in error["message"]


def test_a_failure_is_told_within_bounds() -> None:
    told = members(Outcome.of_error(ValueError("\x00\ud800" + "x" * 10_000)))["error"]
    assert told["type"] == "ValueError"
    assert len(told["message"]) == 2_000
    assert len(told["traceback"]) <= 8_000


@dataclass
class Sent:
    at: datetime
    to: set[str]


class Colour(Enum):
    RED = "red"


class Model(BaseModel):
    amount: Decimal


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            Sent(datetime(2026, 1, 2, tzinfo=UTC), {"a"}),
            {"at": "2026-01-02T00:00:00Z", "to": ["a"]},
        ),
        ({"id": UUID(int=7), "colour": Colour.RED}, {"id": f"{UUID(int=7)}", "colour": "red"}),
        (
            [Model(amount=Decimal("1.10")), Decimal("2.20"), None],
            [{"amount": "1.10"}, "2.20", None],
        ),
    ],
)
def test_results_are_written_as_the_service_writes_them(value: Any, expected: Any) -> None:
    assert json.loads(encode_result(value, max_bytes=1_000)) == expected


@pytest.mark.parametrize("value", [object(), float("nan"), {(1, 2): 3}, "\ud800", "x" * 1_000])
def test_a_result_that_cannot_be_stored_says_why(value: Any) -> None:
    with pytest.raises(NotStorable, match="stor"):
        encode_result(value, max_bytes=1_000)
    outcome = Outcome.of_result(value, max_bytes=1_000)
    assert members(outcome)["permanent"] is True


def test_a_result_that_holds_itself_is_refused_and_ends_nothing() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert Outcome.of_result(endless, max_bytes=1_000).verb == "fail"


def test_pauses_grow_up_to_a_limit_and_what_the_service_asks_for_is_kept_to() -> None:
    pauses = Pauses(1.0, 8.0)
    found = [pauses.after_failure() for _ in range(100)]
    assert all(
        longest / 2 <= one <= longest for one, longest in zip(found, [1, 2, 4, 8], strict=False)
    )
    assert max(found) <= 8
    assert 60 < pauses.after_failure(3600) <= 68
    pauses.begin_anew()
    assert pauses.after_failure() <= 1


def test_what_cannot_be_a_handler_is_refused_when_it_is_registered() -> None:
    worker = Worker("http://jobs")

    def inner(payload: Any) -> None: ...

    async def coroutine(payload: Any) -> None: ...

    def three(payload: Any, ctx: Any, more: Any) -> None: ...

    with pytest.raises(ValueError, match="inner is defined inside a function"):
        worker.handler("a", executor="process")(inner)
    with pytest.raises(ValueError, match="is an `async def`: leave executor out"):
        worker.handler("a", executor="thread")(coroutine)
    with pytest.raises(ValueError, match="takes neither"):
        worker.handler("a")(three)
    with pytest.raises(ValueError, match="job_type 'a b': expected"):
        worker.handler("a b")(inner)
    with pytest.raises(RuntimeError, match="no handlers"):
        worker.start()
    worker.handler("a")(inner)
    with pytest.raises(ValueError, match="has a handler already"):
        worker.handler("a")(inner)
    for number in range(99):
        worker.handler(f"type-{number}")(kit_handlers.plain)
    with pytest.raises(ValueError, match="There are 100 handlers"):
        worker.handler("one.more")
    with pytest.raises(ValueError, match="concurrency is 0: give 1 to 1000"):
        Worker("http://jobs", concurrency=0)
    with pytest.raises(ValueError, match="without spaces"):
        Worker("http://jobs", name="a worker")
