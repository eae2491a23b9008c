"""Limits and headers of every request, whichever route it is for."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs.core.encoding import deeper_than
from service.settings import Settings
from tests.api.shell import real_server, shell_app, shell_client

LIMIT = 2048


async def nothing() -> dict[str, str]:
    return {"ok": "yes"}


@pytest.fixture
async def client(make_settings: Callable[..., Settings]) -> AsyncIterator[httpx.AsyncClient]:
    settings = make_settings(max_body_bytes=LIMIT, max_json_depth=8, body_timeout_seconds=0.2)
    async with shell_client(settings, nothing) as client:
        yield client


async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * size


async def test_a_body_at_the_limit_passes_and_one_above_is_413(client: httpx.AsyncClient) -> None:
    at_limit = await client.post("/echo", content=b"x" * LIMIT)
    above = await client.post("/echo", content=b"x" * (LIMIT + 1))
    assert at_limit.json() == {"bytes": LIMIT}
    assert above.status_code == 413
    assert above.headers["connection"] == "close"
    assert above.json()["type"].endswith(":body-too-large")


async def test_a_chunked_body_is_counted_as_it_arrives(client: httpx.AsyncClient) -> None:
    at_limit = await client.post("/echo", content=chunks(8, LIMIT // 8))
    above = await client.post("/echo", content=chunks(9, LIMIT // 8))
    assert at_limit.json() == {"bytes": LIMIT}
    assert above.status_code == 413


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_client_that_sends_before_it_reads_gets_the_413(
    make_settings: Callable[..., Settings], chunked: bool
) -> None:
    app = shell_app(make_settings(max_body_bytes=1_048_576), nothing)
    async with real_server(app) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        content = chunks(40, 100_000) if chunked else b"x" * 4_000_000
        response = await client.post("/echo", content=content)
        after = await client.post("/echo", content=b"x")
    assert response.status_code == 413
    assert after.json() == {"bytes": 1}


async def test_a_client_that_hangs_up_is_no_error(
    make_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    app = shell_app(make_settings(log_level="INFO"), nothing)
    async with real_server(app) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            assert (await client.get("/fail")).status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_body_that_does_not_arrive_is_408(client: httpx.AsyncClient) -> None:
    done = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await done.wait()

    response = await asyncio.wait_for(client.post("/echo", content=stalled()), timeout=10)
    done.set()
    assert response.status_code == 408


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 19, "٣"])
async def test_an_odd_content_length_is_refused(client: httpx.AsyncClient, length: str) -> None:
    headers = [(b"content-length", length.encode())]
    response = await client.post("/echo", content=b"x", headers=httpx.Headers(headers))
    assert response.status_code in {400, 413}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 8 + b"]" * 8, 200),
        (b"[" * 9 + b"]" * 9, 422),
        (b"[" * 1000, 422),
        (b'{"a":' * 9 + b"1" + b"}" * 9, 422),
        (b"[" + b"[]," * 100 + b"[]]", 200),
        (b'["' + b"[" * 100 + b'"]', 200),
        (b'["\\"' + b"[" * 100 + b'"]', 200),
        (b'["\\\\"' + b"," + b"[" * 9 + b"]" * 9 + b"]", 422),
    ],
)
async def test_nesting_is_bounded_and_strings_do_not_count(
    client: httpx.AsyncClient, body: bytes, status: int
) -> None:
    assert (await client.post("/echo", content=body)).status_code == status


nested = st.recursive(
    st.none() | st.text(st.sampled_from('[]{}"\\a'), max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.text(st.sampled_from('[{"\\'), max_size=2), children, max_size=3)
    ),
    max_leaves=12,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(nested, st.integers(0, 6))
def test_the_depth_found_is_that_of_the_parsed_value(value: Any, limit: int) -> None:
    assert deeper_than(json.dumps(value).encode(), limit) == (depth_of(value) > limit)


@pytest.mark.parametrize("given_id", ["abc", "A-b_c.9", "x" * 64])
async def test_a_sane_request_id_is_kept(client: httpx.AsyncClient, given_id: str) -> None:
    response = await client.get("/fail", headers={"X-Request-ID": given_id})
    assert response.headers["x-request-id"] == given_id


@pytest.mark.parametrize("given_id", ["", "x" * 65, "a b", "a\tb", "ä", '"><script>'])
async def test_any_other_request_id_is_replaced(client: httpx.AsyncClient, given_id: str) -> None:
    headers = httpx.Headers([(b"x-request-id", given_id.encode())])
    made = (await client.get("/fail", headers=headers)).headers["x-request-id"]
    assert made != given_id
    assert len(made) == 16


@pytest.mark.parametrize("path", ["/fail", "/nowhere"])
async def test_every_answer_carries_the_security_headers(
    client: httpx.AsyncClient, path: str
) -> None:
    headers = (await client.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


async def test_refusals_of_the_shell_carry_them_as_well(client: httpx.AsyncClient) -> None:
    response = await client.post("/echo", content=b"x" * (LIMIT + 1))
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_slow_requests_are_logged_and_quick_ones_are_not(
    make_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    for slow, expected in ((0.000001, ["request"]), (600, [])):
        caplog.clear()
        async with shell_client(make_settings(slow_request_seconds=slow), nothing) as client:
            await client.get("/fail?token=hunter2")
        events = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        assert [event["event"] for event in events] == expected
        assert "hunter2" not in repr(events)
