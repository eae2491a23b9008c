"""What an answer means for a job, from a real server to the row."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.settings import Settings
from service.targets.answer import MAX_BODY_BYTES
from service.targets.client import Sent, TargetClient, TargetUnreachable
from service.targets.guard import TargetRefused
from service.targets.url import parse_url

from .conftest import HOME, Deliver, result_of
from .servers import Got, answer, black_hole, running


@pytest.mark.whole
async def test_the_status_decides_what_becomes_of_the_job(deliver: Deliver) -> None:
    expected = {
        200: "SUCCESS", 201: "SUCCESS", 204: "SUCCESS", 409: "SUCCESS",
        400: "FAILED", 401: "FAILED", 404: "FAILED", 410: "FAILED",
        302: "PENDING", 408: "PENDING", 418: "PENDING", 425: "PENDING", 429: "PENDING", 500: "PENDING", 503: "PENDING",
    }  # fmt: skip
    async with running(lambda got: answer(int(got.target[1:]), b"as asked")) as target:
        jobs = await deliver(
            *(
                {
                    "url": f"{target.url}/{status}",
                    "success_statuses": [409],
                    "retry_statuses": [418],
                }
                for status in expected
            ),
        )
        assert {int(job.payload["url"][-3:]): job.status for job in jobs} == expected
        keys = {int(got.target[1:]): got.headers["idempotency-key"] for got in target.requests}
    for job in jobs:
        status = int(job.payload["url"][-3:])
        assert keys[status] == str(job.id)
        assert job.concurrency_key == f"target:127.0.0.1:{target.port}"
        assert job.queue == "targets"
        if job.status != "SUCCESS":
            assert f"answered {status}" in (job.last_error or "")
            assert "as asked" in (job.last_error or "")


@pytest.mark.whole
async def test_retry_after_is_honoured_up_to_the_bound(deliver: Deliver) -> None:
    async with running(lambda got: answer(503, Retry_After=got.target[1:])) as target:
        (near, far) = await deliver(
            {"url": f"{target.url}/120"},
            {"url": f"{target.url}/9999999"},
            target_retry_after_seconds=900,
        )
    for job, seconds in ((near, 120), (far, 900)):
        late = job.next_run_at - datetime.now(UTC) - timedelta(seconds=seconds)
        assert abs(late.total_seconds()) < 30


@pytest.mark.whole
async def test_request_and_answer_are_kept_as_they_were(deliver: Deliver) -> None:
    def echo(got: Got) -> bytes:
        told = {
            "method": got.method,
            "type": got.headers.get("content-type"),
            "body": got.body.decode(),
        }
        return answer(200, json.dumps(told).encode(), X_Kind="echo", Set_Cookie="session=1")

    async with running(echo) as target:
        jobs = await deliver(
            {"url": f"{target.url}/a", "json": {"n": [1, "é"]}},
            {
                "url": f"{target.url}/b",
                "text": "é",
                "method": "PUT",
                "headers": {"Content-Type": "text/x"},
            },
            {"url": f"{target.url}/c", "base64": "aGk="},
            {"url": f"{target.url}/d", "method": "GET"},
            {"url": f"{target.url}/e", "json": None},
        )
    told = [json.loads(result_of(job)["body"]) for job in jobs]
    assert told == [
        {"method": "POST", "type": "application/json", "body": '{"n":[1,"é"]}'},
        {"method": "PUT", "type": "text/x", "body": "é"},
        {"method": "POST", "type": "application/octet-stream", "body": "hi"},
        {"method": "GET", "type": None, "body": ""},
        {"method": "POST", "type": "application/json", "body": "null"},
    ]
    result = result_of(jobs[0])
    assert (result["status"], result["truncated"], result["headers"]["x-kind"]) == (
        200,
        False,
        "echo",
    )
    assert result["headers"]["set-cookie"] == "••••••"


@pytest.mark.whole
async def test_a_body_is_kept_within_bounds_whatever_it_unfolds_to(deliver: Deliver) -> None:
    bodies = {
        "/long": answer(200, b"x" * 1_000_000),
        "/bomb": answer(200, gzip.compress(bytes(50_000_000)), Content_Encoding="gzip"),
        "/text": answer(200, gzip.compress("é".encode() * 100), Content_Encoding="gzip"),
        "/bytes": answer(200, b"\x00\xff"),
        "/controls": answer(200, b"\x01" * MAX_BODY_BYTES),
        "/broken": answer(200, b"half", length=100, Connection="close"),
    }

    async with running(lambda got: bodies[got.target]) as target:
        jobs = await deliver(
            *({"url": target.url + path} for path in bodies),
            max_payload_bytes=100_000,
        )
    found = {job.payload["url"].removeprefix(target.url): job for job in jobs}
    assert {job.status for job in jobs} == {"SUCCESS"}
    results = {path: result_of(job) for path, job in found.items()}
    assert results["/long"]["body"] == "x" * MAX_BODY_BYTES
    assert results["/text"]["body"] == "é" * 100
    assert results["/bytes"]["body_base64"] == "AP8="
    assert results["/broken"]["body"] == "half"
    truncated = {path: result["truncated"] for path, result in results.items()}
    assert truncated == {
        "/long": True, "/bomb": True, "/text": False, "/bytes": False, "/controls": True, "/broken": True,
    }  # fmt: skip


def sent(url: str, **options: Any) -> Sent:
    values: dict[str, Any] = {
        "timeout_seconds": 5.0,
        "connect_timeout_seconds": 2.0,
        "redirects": 3,
    }
    return Sent(parse_url(url), "POST", {"Authorization": "Bearer x", "X-Plain": "y"}, b"hi",
                **(values | {"bound_headers": frozenset({"authorization"})} | options))  # fmt: skip


@pytest.fixture
def home(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(target_allowed=HOME, target_ports=("1-65535",))


async def test_redirects_are_followed_up_to_the_bound_and_take_no_secret_elsewhere(
    home: Settings,
) -> None:
    async with running() as elsewhere:

        def lead(got: Got) -> bytes:
            where = {"/a": "/b", "/b": f"{elsewhere.url}/c", "/loop": "/loop"}[got.target]
            return answer(303 if got.target == "/a" else 307, Location=where)

        async with running(lead) as target:
            client = TargetClient(home)
            try:
                last = await client.send(sent(f"{target.url}/a"))
                loop = await client.send(sent(f"{target.url}/loop"))
                stay = await client.send(sent(f"{target.url}/a", redirects=0))
            finally:
                await client.close()
    assert (last.status, last.redirects) == (200, 2)
    assert (loop.status, loop.redirects) == (307, 3)
    assert (stay.status, stay.redirects) == (303, 0)
    (got,) = elsewhere.requests
    assert (got.method, got.body, got.headers["x-plain"]) == ("GET", b"", "y")
    assert "authorization" not in got.headers
    assert target.requests[1].headers["authorization"] == "Bearer x"


@pytest.mark.parametrize(
    "location",
    ["http://169.254.169.254/", "http://10.0.0.1/", "http://a@127.0.0.1/", "file:///etc/passwd",
     "//0x7f.1/", "http://2130706433/", "\\\\127.0.0.1\\x", "http://[::1]/", "gopher://x/"],
)  # fmt: skip
async def test_where_a_redirect_leads_is_checked_like_the_first_url(
    home: Settings, location: str
) -> None:
    async with running(lambda _got: answer(302, Location=location)) as target:
        client = TargetClient(home)
        try:
            with pytest.raises(TargetRefused):
                await client.send(sent(target.url))
        finally:
            await client.close()
    assert len(target.requests) == 1


async def test_an_endless_body_ends_and_the_status_counts(home: Settings) -> None:
    async with running(answer(200, b"begun", length=10_000)) as target:
        client = TargetClient(home)
        try:
            got = await client.send(sent(target.url, timeout_seconds=0.5))
        finally:
            await client.close()
    assert (got.status, got.body, got.is_whole) == (200, b"begun", False)


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000, b"SSH-2.0-OpenSSH\r\n\r\n", b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000]
)  # fmt: skip
async def test_what_is_no_answer_is_no_success(home: Settings, said: bytes) -> None:
    async with running(said) as target:
        client = TargetClient(home)
        try:
            with pytest.raises(TargetUnreachable) as trouble:
                await client.send(sent(target.url, timeout_seconds=0.5))
        finally:
            await client.close()
    assert "Bearer" not in str(trouble.value)


async def test_silence_ends_with_the_timeout_and_nobody_listening_at_once(home: Settings) -> None:
    client = TargetClient(home)
    try:
        async with black_hole() as port:
            with pytest.raises(TargetUnreachable, match=r"did not answer within 0\.2 s"):
                await client.send(sent(f"http://127.0.0.1:{port}/", timeout_seconds=0.2))
        with pytest.raises(TargetUnreachable, match="cannot be reached"):
            await client.send(sent(f"http://127.0.0.1:{port}/"))
    finally:
        await client.close()


async def test_a_connection_is_used_again_and_no_proxy_of_the_environment(
    home: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running() as target, running() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        client = TargetClient(home)
        try:
            for _ in range(5):
                await client.send(sent(target.url))
        finally:
            await client.close()
    assert (target.connections, len(target.requests), proxy.connections) == (1, 5, 0)
