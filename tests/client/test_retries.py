"""Calls that fail are made again where that is safe, and no more often than they may."""

import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from finmind_client import Client, NotReached, QuotaExceeded, Retry, Unavailable

QUICK = Retry(attempts=4, base_seconds=0.001, cap_seconds=0.001)
JOB = {
    "id": 1, "job_type": "mail", "queue": "default", "status": "PENDING", "priority": 2, "attempts": 0,
    "next_run_at": "2030-01-01T00:00:00Z", "created_at": "2030-01-01T00:00:00Z",
}  # fmt: skip

Answer = httpx.Response | httpx.TransportError


@pytest.fixture
def keys() -> list[str | None]:
    return []


@pytest.fixture
def client_of(keys: list[str | None]) -> Callable[..., Client]:
    """A client whose service gives these answers, one after the other; the last again and again."""

    def client_of(*answers: Answer, retry: Retry = QUICK) -> Client:
        left: Iterator[Answer] = iter(answers)
        last = answers[-1]

        def handle(request: httpx.Request) -> httpx.Response:
            keys.append(request.headers.get("idempotency-key"))
            answer = next(left, last)
            if isinstance(answer, httpx.TransportError):
                raise answer
            return answer

        return Client("http://jobs.test", transport=httpx.MockTransport(handle), retry=retry)

    return client_of


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"title": "Busy", "detail": "try again"}, headers=headers)


MADE = httpx.Response(201, json=JOB)


@pytest.mark.parametrize(
    "failure",
    [busy(), busy(502), busy(429), httpx.ReadTimeout("late"), httpx.ConnectError("refused")],
    ids=["503", "502", "429", "read", "connect"],
)
def test_an_enqueue_is_sent_again_with_the_same_key(
    client_of: Callable[..., Client], keys: list[str | None], failure: Answer
) -> None:
    assert client_of(failure, failure, MADE).enqueue("mail").id == 1
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]


def test_two_enqueues_have_keys_of_their_own(
    client_of: Callable[..., Client], keys: list[str | None]
) -> None:
    client = client_of(MADE)
    client.enqueue("mail")
    client.enqueue("mail")
    client.enqueue("mail", idempotency_key="order-1")
    assert len(set(keys)) == 3
    assert keys[2] == "order-1"


def test_what_helps_no_more_is_raised(
    client_of: Callable[..., Client], keys: list[str | None]
) -> None:
    with pytest.raises(Unavailable, match="try again"):
        client_of(busy()).enqueue("mail")
    assert len(keys) == 4
    with pytest.raises(
        NotReached, match=r"jobs.test/jobs/1 was not answered in 4 attempts: ConnectError"
    ):
        client_of(httpx.ConnectError("refused")).get(1)


def test_what_may_have_happened_is_not_done_twice(
    client_of: Callable[..., Client], keys: list[str | None]
) -> None:
    with pytest.raises(NotReached, match="in 1 attempts: ReadTimeout"):
        client_of(httpx.ReadTimeout("late"), MADE).admin.retry(1)
    assert client_of(httpx.ConnectError("refused"), MADE).admin.retry(1).id == 1


def test_the_service_says_how_long_to_wait(client_of: Callable[..., Client]) -> None:
    began = time.monotonic()
    client_of(busy(429, **{"retry-after": "1"}), MADE).enqueue("mail")
    assert time.monotonic() - began >= 1
    with pytest.raises(QuotaExceeded) as refused:
        client_of(busy(429, **{"retry-after": "3600"}), MADE).enqueue("mail")
    assert refused.value.retry_after_seconds == 3600


def test_delays_grow_and_vary_up_to_a_limit() -> None:
    retry = Retry(attempts=100, base_seconds=1, cap_seconds=8)
    longest = [max(retry.delay(n, None) or 0 for _ in range(300)) for n in range(1, 7)]
    bounds = [1, 2, 4, 8, 8, 8]
    assert all(found <= bound for found, bound in zip(longest, bounds, strict=True))
    assert all(found > bound / 2 for found, bound in zip(longest, bounds, strict=True))
    assert Retry(attempts=1).delay(1, None) is None


def test_an_answer_of_something_in_between_is_an_error_too(
    client_of: Callable[..., Client],
) -> None:
    with pytest.raises(Unavailable, match="Bad Gateway"):
        client_of(httpx.Response(502, text="<html>nginx</html>")).get(1)
