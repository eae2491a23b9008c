"""A payload that is encrypted: who is shown what, over REST, on pages and in the database."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.auth.principal import Role
from service.db.engine import Database
from service.jobs import NewJob, Registry, Worker, enqueue_batch
from service.jobs.actions.many import ActionContext, act_on
from service.jobs.core import payload_keys
from service.jobs.core.bulk_action import BulkAction, Verb
from service.jobs.core.encryption import opened
from service.jobs.core.filters import JobFilters
from service.jobs.core.job_types import policies
from service.jobs.core.payload_keys import PayloadKeys, use_keys
from service.jobs.handlers.published import publish_types
from service.jobs.read.list import list_jobs
from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem
from tests.jobs.waiting import until
from tests.pages.signing_in import browser

CARD = "4111-of-the-tests"
OTHER = "5500-of-the-tests"
BODY: dict[str, Any] = {
    "job_type": "charge",
    "payload": {"card": CARD, "amount": 7},
    "delay_seconds": 600,
}
KEY = "B" * 43 + "="


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """Handlers of `charge`, in this process's policies."""
    monkeypatch.setattr(payload_keys, "_own", None)
    use_keys(PayloadKeys([KEY]))
    handlers = Registry(policies)
    yield handlers
    policies.pop("charge", None)


@pytest.fixture
def charged(keys: Registry) -> list[Any]:
    """What the handler of `charge` was given."""
    seen: list[Any] = []
    keys.handler("charge", encrypt=["card"], max_retries=0)(seen.append)
    return seen


@pytest.fixture
async def sql(database: Database) -> Any:
    connection = await database.connect()
    yield connection
    await connection.close(timeout=5)


async def test_nobody_but_the_handler_is_shown_what_is_encrypted(
    app: FastAPI,
    client: httpx.AsyncClient,
    auth: Auth,
    sql: Any,
    charged: list[Any],
    database: Database,
    settings: Settings,
    keys: Registry,
) -> None:
    admin, seen = auth("admin"), []

    async def call(method: str, path: str, expected: int = 200, **options: Any) -> Any:
        answer = await client.request(method, path, headers=admin, **options)
        seen.append(answer.text)
        assert answer.status_code == expected, answer.text
        return answer.json() if "json" in answer.headers["content-type"] else answer.text

    made = await call("POST", "/jobs", 201, json=BODY)
    shown = {"amount": 7, "$encrypted": ["card"], "$ciphertext": "••••••"}
    assert made["payload"] == shown
    path = f"/admin/jobs/{made['id']}"
    assert (await call("GET", path))["payload"] == shown
    # An edit of what is shown keeps what is not; one that gives it encrypts it.
    before = await sql.fetchval("SELECT payload ->> '$ciphertext' FROM jobs_live")
    edited = await call("PATCH", path, json={"payload": shown | {"amount": 8}})
    assert edited["payload"] == shown | {"amount": 8}
    assert await sql.fetchval("SELECT payload ->> '$ciphertext' FROM jobs_live") == before
    await call("POST", f"{path}/clone", 201)
    assert await sql.fetchval("SELECT count(DISTINCT payload) FROM jobs_live") == 1
    await call("PATCH", path, json={"payload": {"card": OTHER, "amount": 9}})
    await call("GET", "/admin/audit")
    whole = await call("POST", "/jobs", 201, json=BODY | {"encrypt": True})
    assert whole["payload"] == {"$encrypted": True, "$ciphertext": "••••••"}
    async with await browser(app, Role.ADMIN) as operator:
        for page in (f"/dashboard/jobs/{made['id']}", f"/dashboard/jobs/{made['id']}/edit"):
            seen.append((await operator.get(page)).text)
            assert "$encrypted" in seen[-1]
    assert [text for text in seen if before in text] == []
    rows = await sql.fetch("SELECT row_to_json(j)::text FROM background_jobs j")
    rows += await sql.fetch("SELECT row_to_json(a)::text FROM audit_log a")
    seen += [row[0] for row in rows]
    assert [text for text in seen if CARD in text or OTHER in text] == []
    await sql.execute("UPDATE jobs_live SET next_run_at = now()")
    worker = Worker(database, settings, handlers=keys)
    await worker.start()

    async def all_ran() -> bool:
        return len(charged) == 3

    await until(all_ran)
    await worker.stop()
    assert sorted((one["amount"], one["card"]) for one in charged) == [
        (7, CARD), (8, CARD), (9, OTHER),
    ]  # fmt: skip


async def test_a_worker_without_the_key_fails_the_job_with_words_and_loses_nothing(
    client: httpx.AsyncClient,
    auth: Auth,
    charged: list[Any],
    database: Database,
    settings: Settings,
    keys: Registry,
) -> None:
    admin = auth("admin")
    made = (await client.post("/jobs", json=BODY | {"delay_seconds": 0}, headers=admin)).json()
    use_keys(PayloadKeys(["A" * 43 + "="]))
    worker = Worker(database, settings, handlers=keys)
    await worker.start()

    async def ended() -> Any:
        job = (await client.get(f"/admin/jobs/{made['id']}", headers=admin)).json()
        return job if job["status"] == "DEAD_LETTER" else None

    job = await until(ended)
    assert job["last_error"].startswith("PayloadKeyMissing: the payload is encrypted with key ")
    assert "add that key, then retry the job" in job["last_error"]
    use_keys(PayloadKeys([KEY]))
    await client.post(f"/admin/jobs/{made['id']}/retry", headers=admin)

    async def ran() -> bool:
        return bool(charged)

    await until(ran)
    await worker.stop()
    assert charged == [BODY["payload"]]


async def test_requests_for_the_same_secret_are_the_same_and_leave_no_digest_to_try(
    client: httpx.AsyncClient, auth: Auth, charged: list[Any], sql: Any
) -> None:
    service = auth("service", "ann")

    async def post(**more: Any) -> httpx.Response:
        headers = service | {"Idempotency-Key": more.pop("key")} if "key" in more else service
        return await client.post("/jobs", json=BODY | more, headers=headers)

    assert [(await post(unique_key="k")).status_code for _ in range(2)] == [201, 200]
    other = {"payload": BODY["payload"] | {"card": OTHER}, "unique_key": "k"}
    assert_problem(await post(**other), 409)
    assert [(await post(key="once")).status_code for _ in range(2)] == [201, 200]
    use_keys(PayloadKeys(["A" * 43 + "=", KEY]))  # rotated
    assert (await post(key="once")).status_code == 200
    assert_problem(await post(key="once", **(other | {"unique_key": "l"})), 409)
    digests = await sql.fetch("SELECT body_hash FROM idempotency_keys")
    await post(key="twice")
    again = await sql.fetch("SELECT body_hash FROM idempotency_keys WHERE key = 'twice'")
    assert again[0] not in digests, "it depends on a key that no table holds"


async def test_a_search_says_that_it_cannot_look_inside(
    app: FastAPI,
    client: httpx.AsyncClient,
    auth: Auth,
    charged: list[Any],
    database: Database,
    sql: Any,
) -> None:
    admin = auth("admin")

    async def search(**query: str) -> httpx.Response:
        return await client.get("/admin/jobs", params=query, headers=admin)

    for query in ({"payload": "card:4111"}, {"q": "type:charge payload.card:4111"}):
        problem = assert_problem(await search(**query), 422)
        assert (
            "encrypted in jobs of type 'charge': a search cannot look inside" in problem["detail"]
        )
    assert (await search(q="type:charge payload.amount:7")).status_code == 200
    assert (await search(q="type:other payload.card:7")).status_code == 200
    # A process without the handler has read what workers published.
    link = database.link()
    handlers = Registry()
    handlers.handler("charge", encrypt=True)(lambda _: None)
    await publish_types(link, handlers)
    await link.close()
    policies.pop("charge")
    assert_problem(await search(payload="amount:7"), 422)
    # It encrypts what it enqueues as they say, from a moment later on.
    await app.state.service.sealed_types.look()
    made = await client.post("/jobs", json=BODY, headers=admin)
    assert made.json()["payload"] == {"$encrypted": True, "$ciphertext": "••••••"}
    assert CARD not in await sql.fetchval("SELECT payload::text FROM jobs_live")
    with pytest.raises(Exception, match="has not the key"):
        await sql.execute("SELECT enqueue_job('charge', '{}')")


DEAD = """
WITH d AS (DELETE FROM jobs_live RETURNING *)
INSERT INTO background_jobs (id, job_type, payload, status, finished_at)
SELECT id, job_type, payload, 'DEAD_LETTER', now() FROM d"""


async def test_dead_letters_are_edited_but_for_what_is_encrypted(
    client: httpx.AsyncClient, auth: Auth, charged: list[Any], sql: Any, database: Database
) -> None:
    async with database.sessions.begin() as session:
        jobs = [NewJob("charge", {"card": CARD, "amount": n}) for n in range(2)]
        made = [job.id for job in await enqueue_batch(session, jobs)]
        context = ActionContext(by=None, max_errors=5, max_payload_bytes=10_000)
        await session.execute(text(DEAD))
        found = (await list_jobs(session, JobFilters(), limit=5)).jobs
        merge = BulkAction(verb=Verb.RETRY, payload_merge={"card": OTHER})
        done = await act_on(session, merge, found, context)
        assert {one.detail for one in done.skipped} == {
            "payload.card is encrypted: change it job by job"
        }
        done = await act_on(
            session, BulkAction(verb=Verb.RETRY, payload_merge={"n": 1}), found, context
        )
        assert sorted(done.changed) == made
        await session.execute(text(DEAD))
    edit = {"payload": {"amount": 9, "$encrypted": ["card"]}}
    answer = await client.post(f"/admin/jobs/{made[0]}/retry", json=edit, headers=auth("admin"))
    assert answer.status_code == 200, answer.text
    stored = json.loads(await sql.fetchval("SELECT payload FROM jobs_live"))
    assert opened(stored, job_type="charge") == {"card": CARD, "amount": 9}
    kept = await sql.fetchval("SELECT errors::text FROM jobs_live")
    assert "payload_before" in kept
    assert CARD not in kept
