"""Encrypted payloads over HTTP: workers in any language get them plain, and need no key."""

import httpx
import pytest

from service.jobs.core import payload_keys
from service.jobs.core.payload_keys import PayloadKeys, use_keys
from tests.api.conftest import Auth
from tests.jobs.waiting import until
from tests.remote.conftest import Call, lease

SECRET = {"card": "4111", "amount": 7}


async def test_a_worker_gets_an_encrypted_payload_plain_and_none_that_cannot_be_read(
    call: Call,
    enqueue: Call,
    client: httpx.AsyncClient,
    auth: Auth,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payload_keys, "_own", None)
    use_keys(PayloadKeys(["B" * 43 + "="]))
    await enqueue(payload=SECRET, encrypt=["card"])
    (job,) = (await call("claim", request_id="once"))["jobs"]
    (again,) = (await call("claim", request_id="once"))["jobs"]
    assert (job["payload"], again["payload"]) == (SECRET, SECRET)
    await call("complete", jobs=[lease(again)])

    use_keys(PayloadKeys(["A" * 43 + "="]))
    unread = await enqueue(payload=SECRET, encrypt=True)
    use_keys(PayloadKeys(["B" * 43 + "="]))
    plain = await enqueue(payload={}, priority=9)
    assert [one["id"] for one in (await call("claim", limit=5))["jobs"]] == [plain]

    async def failed() -> str | None:
        shown = await client.get(f"/admin/jobs/{unread}", headers=auth("admin"))
        error: str | None = shown.json()["last_error"]
        return error

    assert "PayloadKeyMissing: the payload is encrypted with key" in str(await until(failed))
