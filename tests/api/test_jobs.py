"""`/jobs`: what clients send, and exactly what they get."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.api.job_schemas import JobOut
from service.db.engine import Database
from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem, jobs_in

JOB = {"job_type": "mail", "payload": {"to": "ann", "copies": [1, 2.5, None, True]}}


@pytest.fixture
def service(auth: Auth) -> dict[str, str]:
    return auth("service")


async def test_a_new_job_is_answered_with_201_itself_and_its_address(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    asked = JOB | {
        "queue": "letters",
        "priority": 0,
        "max_retries": 7,
        "timeout_seconds": 1.5,
        "unique_key": "ann-1",
    }
    answer = await client.post("/jobs", json=asked, headers=service)
    assert answer.status_code == 201
    job = answer.json()
    assert job.items() >= asked.items()
    assert (
        job.items()
        >= {
            "status": "PENDING",
            "attempts": 0,
            "result": None,
            "last_error": None,
            "finished_at": None,
        }.items()
    )
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert answer.headers["content-type"] == "application/json"
    read = await client.get(answer.headers["location"], headers=service)
    assert read.status_code == 200
    assert read.json() == job


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"payload": {"é": 1.5}, "queue": "letters", "priority": 0, "max_retries": 7,
         "timeout_seconds": 1.5, "unique_key": "ann-1", "backoff": {"base_seconds": 1.0},
         "run_at": "2030-01-31T09:00:00.25+01:00"},
    ],
    ids=["type alone", "everything"],
)  # fmt: skip
async def test_the_short_way_answers_each_member_as_the_usual_way_does(
    client: httpx.AsyncClient, service: dict[str, str], options: dict[str, Any]
) -> None:
    """The short way writes its answer by hand; the others show the row through `JobOut`."""
    body = {"job_type": "mail"} | options
    short = await client.post("/jobs", json=body, headers=service)
    read = await client.get(short.headers["location"], headers=service)
    assert (short.status_code, short.content) == (201, read.content)
    assert list(short.json()) == list(JobOut.model_fields)

    again = body | ({"unique_key": "ann-2"} if "unique_key" in body else {})
    usual = await client.post("/jobs", json=again, headers=service | {"Idempotency-Key": "once"})
    own = {"id", "created_at", "unique_key"} | ({"next_run_at"} if "run_at" not in body else set())
    assert usual.status_code == 201
    assert _without(usual.json(), own) == _without(short.json(), own)


def _without(job: dict[str, Any], names: set[str]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in job.items() if name not in names]


async def test_a_job_needs_no_more_than_its_type(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    answer = await client.post("/jobs", json={"job_type": "mail"}, headers=service)
    assert answer.status_code == 201
    defaults = {"queue": "default", "priority": 2, "max_retries": None, "payload": {}}
    assert answer.json().items() >= defaults.items()


async def test_a_job_waits_for_run_at_or_for_its_delay(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    moment = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    local = moment.astimezone(datetime.strptime("+0200", "%z").tzinfo).isoformat()
    at = await client.post("/jobs", json=JOB | {"run_at": local}, headers=service)
    assert datetime.fromisoformat(at.json()["next_run_at"]) == moment
    later = (await client.post("/jobs", json=JOB | {"delay_seconds": 90}, headers=service)).json()
    waits = datetime.fromisoformat(later["next_run_at"]) - datetime.fromisoformat(
        later["created_at"]
    )
    assert abs(waits - timedelta(seconds=90)) < timedelta(seconds=1)


@pytest.mark.parametrize(
    "payload",
    [
        {"big": 12345678901234567890123456789012345678901234567890},
        {"text": 'Ünïcödé 😀 \\u0000 " \n'},
        {"deep": {"a": [{"b": [{"c": {}}]}]}},
        {"": "", "a.b": 0, "$ref": "x"},
        {},
    ],
    ids=["big-integer", "text", "nested", "odd-keys", "empty"],
)
async def test_a_payload_comes_back_as_it_was_sent(
    client: httpx.AsyncClient, service: dict[str, str], payload: dict[str, Any]
) -> None:
    answer = await client.post("/jobs", json={"job_type": "m", "payload": payload}, headers=service)
    assert answer.status_code == 201
    assert answer.json()["payload"] == payload
    read = await client.get(f"/jobs/{answer.json()['id']}", headers=service)
    assert read.json()["payload"] == payload


REFUSED: list[Any] = [
    ({}, "body.job_type"),
    ({"job_type": ""}, "body.job_type"),
    ({"job_type": "-x"}, "body.job_type"),
    ({"job_type": "a b"}, "body.job_type"),
    ({"job_type": "mail\n"}, "body.job_type"),
    ({"job_type": "a" * 101}, "body.job_type"),
    ({"job_type": 7}, "body.job_type"),
    (JOB | {"queue": ""}, "body.queue"),
    (JOB | {"queue": "é"}, "body.queue"),
    (JOB | {"payload": [1]}, "body.payload"),
    (JOB | {"payload": "x"}, "body.payload"),
    (JOB | {"payload": None}, "body.payload"),
    (JOB | {"priority": 10}, "body.priority"),
    (JOB | {"priority": -1}, "body.priority"),
    (JOB | {"priority": "1"}, "body.priority"),
    (JOB | {"priority": 1.5}, "body.priority"),
    (JOB | {"priority": True}, "body.priority"),
    (JOB | {"max_retries": -1}, "body.max_retries"),
    (JOB | {"max_retries": 1001}, "body.max_retries"),
    (JOB | {"timeout_seconds": 0}, "body.timeout_seconds"),
    (JOB | {"timeout_seconds": 86401}, "body.timeout_seconds"),
    (JOB | {"delay_seconds": -0.1}, "body.delay_seconds"),
    (JOB | {"delay_seconds": 1e12}, "body.delay_seconds"),
    (JOB | {"delay_seconds": "5"}, "body.delay_seconds"),
    (JOB | {"run_at": "2030-01-01T00:00:00"}, "body.run_at"),
    (JOB | {"run_at": "soon"}, "body.run_at"),
    (JOB | {"run_at": 1700000000}, "body.run_at"),
    (JOB | {"run_at": "2030-01-01T00:00:00Z", "delay_seconds": 1}, "body"),
    (JOB | {"unique_key": ""}, "body.unique_key"),
    (JOB | {"unique_key": "k" * 256}, "body.unique_key"),
    (JOB | {"unique_key": "a\x00b"}, "body.unique_key"),
    (JOB | {"backoff": {"factor": 0.5}}, "body.backoff.factor"),
    (JOB | {"status": "SUCCESS"}, "body.status"),
    (JOB | {"jobtype": "x"}, "body.jobtype"),
    ([JOB], "body"),
    ("x", "body"),
    (None, "body"),
]


@pytest.mark.whole
@pytest.mark.parametrize(("body", "field"), REFUSED)
async def test_a_bad_field_is_refused_by_name(
    client: httpx.AsyncClient, service: dict[str, str], body: Any, field: str
) -> None:
    answer = await client.post("/jobs", json=body, headers=service)
    problem = assert_problem(answer, 422)
    assert field in [error["field"] for error in problem["errors"]]


RAW: list[Any] = [
    (b'{"job_type":"m","payload":{"x":NaN}}', 422, "finite"),
    (b'{"job_type":"m","payload":{"x":-Infinity}}', 422, "finite"),
    (b'{"job_type":"m","payload":{"x":1e999}}', 422, "finite"),
    (b'{"job_type":"m","payload":{"x":"\\u0000"}}', 422, "NUL"),
    (b'{"job_type":"m","payload":{"\\u0000":1}}', 422, "NUL"),
    (b'{"job_type":"m","payload":{"x":"\\ud800"}}', 422, "surrogate"),
    (b'{"job_type":"m","unique_key":"\\ud800"}', 422, "unique_key"),
    (b'{"job_type":"\\ud800"}', 422, "job_type"),
    (b'{"job_type":"m",}', 422, "JSON"),
    (b"", 422, "body"),
    (b'{"job_type":"m","payload":{"x":"\xff"}}', 400, "body"),
    (b'{"job_type":"m","delay_seconds":NaN}', 422, "delay_seconds"),
    (b'{"job_type":"m","payload":' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}", 422, "deep"),
    (b'{"job_type":"m","payload":{"x":"' + b"x" * 262_144 + b'"}}', 422, "MAX_PAYLOAD_BYTES"),
    (b'{"job_type":"m","payload":{"x":"' + b"x" * 1_100_000 + b'"}}', 413, "over"),
]


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}], ids=["plain", "keyed"])
@pytest.mark.parametrize(("body", "status", "word"), RAW)
async def test_a_value_that_cannot_be_stored_is_refused_in_plain_words(
    client: httpx.AsyncClient,
    service: dict[str, str],
    headers: dict[str, str],
    body: bytes,
    status: int,
    word: str,
) -> None:
    answer = await client.post(
        "/jobs", content=body, headers=service | headers | {"content-type": "application/json"}
    )
    problem = assert_problem(answer, status)
    assert word in problem["detail"]


async def test_a_refused_job_leaves_nothing_behind(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    keyed = service | {"idempotency-key": "k"}
    bad = {"job_type": "m", "payload": {"x": "\x00"}}
    assert (await client.post("/jobs", json=bad, headers=keyed)).status_code == 422
    assert await jobs_in(app) == []
    good = {"job_type": "m", "payload": {"x": "y"}}
    assert (await client.post("/jobs", json=good, headers=keyed)).status_code == 201


async def test_a_unique_key_finds_the_job_that_holds_it(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    first = await client.post("/jobs", json=JOB | {"unique_key": "k"}, headers=service)
    respelt = {"unique_key": "k", "payload": dict(reversed(JOB["payload"].items()))}  # type: ignore[attr-defined]
    again = await client.post("/jobs", json=JOB | respelt, headers=service)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]


@pytest.mark.parametrize("other", [{"job_type": "sms"}, {"payload": {"to": "bob"}}])
async def test_a_unique_key_held_by_another_job_is_a_conflict(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI, other: dict[str, Any]
) -> None:
    first = await client.post("/jobs", json=JOB | {"unique_key": "k"}, headers=service)
    again = await client.post("/jobs", json=JOB | other | {"unique_key": "k"}, headers=service)
    problem = assert_problem(again, 409)
    assert str(first.json()["id"]) in problem["detail"]
    assert len(await jobs_in(app)) == 1


async def test_a_unique_key_is_free_again_when_its_job_has_ended(
    client: httpx.AsyncClient, service: dict[str, str], auth: Auth
) -> None:
    first = (await client.post("/jobs", json=JOB | {"unique_key": "k"}, headers=service)).json()
    await client.post(f"/admin/jobs/{first['id']}/cancel", headers=auth("operator"))
    again = await client.post("/jobs", json=JOB | {"unique_key": "k"}, headers=service)
    assert again.status_code == 201
    assert again.json()["id"] != first["id"]


async def test_an_idempotency_key_enqueues_once_and_finds_an_ended_job(
    client: httpx.AsyncClient, service: dict[str, str], auth: Auth, app: FastAPI
) -> None:
    keyed = service | {"Idempotency-Key": "order-1"}
    first = await client.post("/jobs", json=JOB, headers=keyed)
    assert first.status_code == 201
    job_id = first.json()["id"]
    respelt = json.dumps(JOB, indent=3, sort_keys=True).encode()
    again = await client.post(
        "/jobs", content=respelt, headers=keyed | {"content-type": "application/json"}
    )
    assert again.status_code == 200
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    await client.post(f"/admin/jobs/{job_id}/cancel", headers=auth("operator"))
    ended = await client.post("/jobs", json=JOB, headers=keyed)
    assert (ended.status_code, ended.json()["status"]) == (200, "CANCELLED")
    assert await jobs_in(app) == [job_id]


async def test_an_idempotency_key_with_another_body_is_a_conflict(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    keyed = service | {"Idempotency-Key": "order-1"}
    await client.post("/jobs", json=JOB, headers=keyed)
    others: list[dict[str, Any]] = [
        {"payload": {}},
        {"priority": 3},
        {"delay_seconds": 1},
        {"job_type": "sms"},
    ]
    for other in others:
        assert_problem(await client.post("/jobs", json=JOB | other, headers=keyed), 409)
    assert_problem(await client.post("/jobs/batch", json={"jobs": [JOB]}, headers=keyed), 409)
    assert len(await jobs_in(app)) == 1


async def test_an_idempotency_key_of_a_deleted_job_enqueues_nothing(
    client: httpx.AsyncClient, service: dict[str, str], auth: Auth, app: FastAPI
) -> None:
    keyed = service | {"Idempotency-Key": "order-1"}
    job_id = (await client.post("/jobs", json=JOB, headers=keyed)).json()["id"]
    await client.delete(f"/admin/jobs/{job_id}", headers=auth("admin"))
    problem = assert_problem(await client.post("/jobs", json=JOB, headers=keyed), 409)
    assert "deleted" in problem["detail"]
    assert await jobs_in(app) == []


async def test_idempotency_keys_of_two_callers_do_not_meet(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    answers = [
        await client.post(
            "/jobs", json=JOB, headers=auth("service", sub) | {"idempotency-key": "k"}
        )
        for sub in ("ann", "bob")
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


async def test_an_idempotency_key_is_forgotten_after_its_time(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    keyed = service | {"Idempotency-Key": "order-1"}
    await client.post("/jobs", json=JOB, headers=keyed)
    database: Database = app.state.service.database
    async with database.engine.begin() as connection:
        await connection.execute(
            text("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
        )
    assert (await client.post("/jobs", json={"job_type": "x"}, headers=keyed)).status_code == 201


@pytest.mark.parametrize("key", ["", "k" * 256, "a b", "a\tb", "\x7f"])
async def test_a_bad_idempotency_key_is_refused(
    client: httpx.AsyncClient, service: dict[str, str], key: str
) -> None:
    answer = await client.post("/jobs", json=JOB, headers=service | {"Idempotency-Key": key})
    problem = assert_problem(answer, 422)
    assert "Idempotency-Key" in problem["errors"][0]["field"]


@pytest.mark.whole
@pytest.mark.parametrize(
    "headers", [{"Idempotency-Key": "once"}, {}], ids=["idempotency-key", "unique-key"]
)
async def test_fifty_requests_at_once_with_one_key_make_one_job(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI, headers: dict[str, str]
) -> None:
    body = JOB if headers else JOB | {"unique_key": "once"}
    answers = await asyncio.gather(
        *(client.post("/jobs", json=body, headers=service | headers) for _ in range(50))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert {answer.json()["id"] for answer in answers} == set(await jobs_in(app))
    assert len(await jobs_in(app)) == 1


async def test_a_batch_is_enqueued_in_order(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    jobs = [{"job_type": "mail", "payload": {"n": n}, "unique_key": f"u{9 - n}"} for n in range(9)]
    answer = await client.post("/jobs/batch", json={"jobs": jobs}, headers=service)
    assert answer.status_code == 201
    assert answer.json()["created"] == 9
    for n, job_id in enumerate(answer.json()["ids"]):
        read = await client.get(f"/jobs/{job_id}", headers=service)
        assert read.json()["payload"] == {"n": n}
    again = await client.post("/jobs/batch", json={"jobs": jobs}, headers=service)
    assert (again.status_code, again.json()) == (201, answer.json() | {"created": 0})


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"job_type": "mail", "payload": {"x": "\x00"}}, "body.jobs.1.payload"),
        ({"job_type": "mail", "priority": 10}, "body.jobs.1.priority"),
        ({"job_type": "-"}, "body.jobs.1.job_type"),
    ],
)
async def test_a_batch_with_one_bad_job_names_it_and_enqueues_none(
    client: httpx.AsyncClient,
    service: dict[str, str],
    app: FastAPI,
    bad: dict[str, Any],
    field: str,
) -> None:
    answer = await client.post("/jobs/batch", json={"jobs": [JOB, bad, JOB]}, headers=service)
    problem = assert_problem(answer, 422)
    assert [error["field"] for error in problem["errors"]] == [field]
    assert await jobs_in(app) == []


async def test_a_batch_with_a_held_unique_key_names_its_position(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    held = (await client.post("/jobs", json=JOB | {"unique_key": "k"}, headers=service)).json()
    other = {"job_type": "sms", "unique_key": "k"}
    answer = await client.post("/jobs/batch", json={"jobs": [JOB, other]}, headers=service)
    assert assert_problem(answer, 409)["detail"].startswith("Job 1: ")
    assert await jobs_in(app) == [held["id"]]


async def test_a_batch_repeated_with_its_idempotency_key_finds_its_jobs(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI
) -> None:
    keyed = service | {"Idempotency-Key": "b"}
    first = await client.post("/jobs/batch", json={"jobs": [JOB, JOB]}, headers=keyed)
    again = await client.post("/jobs/batch", json={"jobs": [JOB, JOB]}, headers=keyed)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"created": 0}
    assert len(await jobs_in(app)) == 2
    assert_problem(await client.post("/jobs/batch", json={"jobs": [JOB]}, headers=keyed), 409)


class TestSmallLimits:
    """With limits that a test can reach."""

    @pytest.fixture
    def api_settings(self, make_settings: Callable[..., Settings], pg_dsn: str) -> Settings:
        return make_settings(database_url=pg_dsn, max_batch_jobs=3, max_body_bytes=2048)

    @pytest.mark.parametrize(("jobs", "status"), [(0, 422), (1, 201), (3, 201), (4, 422)])
    async def test_a_batch_has_one_job_to_max_batch_jobs(
        self, client: httpx.AsyncClient, service: dict[str, str], jobs: int, status: int
    ) -> None:
        answer = await client.post("/jobs/batch", json={"jobs": [JOB] * jobs}, headers=service)
        assert answer.status_code == status
        if status == 422:
            assert_problem(answer, 422)

    async def test_a_body_over_the_limit_is_413(
        self, client: httpx.AsyncClient, service: dict[str, str]
    ) -> None:
        body = JOB | {"payload": {"x": "x" * 2048}}
        assert_problem(await client.post("/jobs", json=body, headers=service), 413)


async def test_a_job_that_is_not_there_is_404(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    problem = assert_problem(await client.get("/jobs/999", headers=service), 404)
    assert "999" in problem["detail"]


@pytest.mark.parametrize("job_id", ["0", "-1", "x", "1.5", str(2**63), "9" * 40])
async def test_an_id_that_no_job_can_have_is_422(
    client: httpx.AsyncClient, service: dict[str, str], job_id: str
) -> None:
    assert_problem(await client.get(f"/jobs/{job_id}", headers=service), 422)


async def test_the_largest_id_is_just_not_there(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    assert_problem(await client.get(f"/jobs/{2**63 - 1}", headers=service), 404)


async def test_a_time_that_the_database_takes_for_infinity_is_refused(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    for run_at in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        answer = await client.post(
            "/jobs", json={"job_type": "mail", "run_at": run_at}, headers=auth("service")
        )
        problem = assert_problem(answer, 422)
        assert problem["errors"][0]["field"] == "body.run_at"


async def test_a_whole_number_may_come_with_a_point(client: httpx.AsyncClient, auth: Auth) -> None:
    body = b'{"job_type": "mail", "priority": 4.0, "max_retries": 1e1}'
    headers = auth("service") | {"content-type": "application/json"}
    made = (await client.post("/jobs", content=body, headers=headers)).json()
    assert (made["priority"], made["max_retries"]) == (4, 10)
    for odd in (b"4.5", b'"4"', b"true", b"1e400"):
        body = b'{"job_type": "mail", "priority": ' + odd + b"}"
        assert_problem(await client.post("/jobs", content=body, headers=headers), 422)


async def test_a_client_finds_its_jobs_by_their_unique_key(
    client: httpx.AsyncClient, service: dict[str, str]
) -> None:
    made = await client.post("/jobs", json=JOB | {"unique_key": "ann-1"}, headers=service)
    await client.post("/jobs", json=JOB | {"unique_key": "ann-2"}, headers=service)
    found = await client.get("/jobs", params={"unique_key": "ann-1"}, headers=service)
    assert [job["id"] for job in found.json()["jobs"]] == [made.json()["id"]]
    nothing = await client.get("/jobs", params={"unique_key": "nobody"}, headers=service)
    assert (nothing.status_code, nothing.json()) == (200, {"jobs": []})
    assert (await client.get("/jobs", headers=service)).status_code == 422


@pytest.mark.parametrize("way", ["single", "with an Idempotency-Key", "batch"])
async def test_a_value_that_postgresql_refuses_is_the_same_error_everywhere(
    client: httpx.AsyncClient, service: dict[str, str], app: FastAPI, way: str
) -> None:
    async with app.state.service.database.sessions.begin() as session:
        check = """ALTER TABLE jobs_live ADD CHECK (payload <> '{"n": "refuse me"}')"""
        await session.execute(text(check))
    job = {"job_type": "mail", "payload": {"n": "refuse me"}}
    path, body = ("/jobs/batch", {"jobs": [job]}) if way == "batch" else ("/jobs", job)
    headers = service | ({"Idempotency-Key": "k"} if "Key" in way else {})
    problem = assert_problem(await client.post(path, json=body, headers=headers), 422)
    assert "PostgreSQL refused a value" in problem["detail"]
    assert await jobs_in(app) == []
