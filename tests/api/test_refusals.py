"""A refused request says what to send instead."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import databases
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem

pytestmark = pytest.mark.whole


def only_error(answer: httpx.Response) -> dict[str, Any]:
    (error,) = assert_problem(answer, 422)["errors"]
    assert isinstance(error, dict)
    return error


@pytest.mark.parametrize(
    ("path", "body", "field", "words"),
    [
        ("/jobs", {"job_type": "m", "colour": 1}, "body.colour", "job_type, payload, queue"),
        (
            "/jobs/batch",
            {"jobs": [{"job_type": "m", "backoff": {"base": 1}}]},
            "body.jobs.0.backoff.base",
            "base_seconds, factor, cap_seconds, jitter",
        ),
        ("/jobs", {"job_type": "a b"}, "body.job_type", "letters, digits or _ . : -"),
        ("/jobs", {"job_type": "m", "queue": ""}, "body.queue", "with a letter or digit first"),
        ("/jobs", {"job_type": "m", "payload": {"x": "\0"}}, "body.payload", "NUL"),
    ],
    ids=["unknown", "unknown-deep", "job_type", "queue", "payload"],
)
async def test_a_refused_field_says_what_is_allowed_and_where_it_stands(
    client: httpx.AsyncClient, auth: Auth, path: str, body: Any, field: str, words: str
) -> None:
    error = only_error(await client.post(path, json=body, headers=auth("service")))
    assert error["field"] == field
    assert words in error["message"]
    assert "^[" not in error["message"]


async def test_an_unknown_filter_names_those_there_are(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    error = only_error(await client.get("/admin/jobs?state=FAILED", headers=auth("viewer")))
    assert error["field"] == "query.state"
    assert "status, job_type, queue" in error["message"]


async def test_a_key_with_spaces_is_refused_with_the_rule(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    headers = auth("service") | {"idempotency-key": "a b"}
    error = only_error(await client.post("/jobs", json={"job_type": "m"}, headers=headers))
    assert error["field"] == "header.Idempotency-Key"
    assert "without spaces" in error["message"]


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch", "/reminders", "/admin/api-keys"])
@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_of_another_content_type_is_415_and_says_which_to_send(
    client: httpx.AsyncClient, auth: Auth, path: str, media_type: str | None
) -> None:
    headers = auth("admin") | ({} if media_type is None else {"content-type": media_type})
    answer = await client.post(path, content=b'{"job_type": "m"}', headers=headers)
    problem = assert_problem(answer, 415)
    assert "Content-Type: application/json" in problem["detail"]


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "application/x+json"])
async def test_every_spelling_of_json_is_taken(
    client: httpx.AsyncClient, auth: Auth, media_type: str
) -> None:
    headers = auth("service") | {"content-type": media_type}
    assert (
        await client.post("/jobs", content=b'{"job_type": "m"}', headers=headers)
    ).status_code == 201
    error = only_error(await client.post("/jobs", content=b"[]", headers=headers))
    assert error["field"] == "body"


async def test_a_broken_body_is_refused_as_a_whole_and_says_where_it_breaks(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    headers = auth("service") | {"content-type": "application/json"}
    error = only_error(await client.post("/jobs", content=b'{"job_type": }', headers=headers))
    assert error["field"] == "body"
    assert "at character 13" in error["message"]


async def test_a_missing_body_is_asked_for(client: httpx.AsyncClient, auth: Auth) -> None:
    error = only_error(await client.post("/jobs", headers=auth("service")))
    assert (error["field"], error["message"]) == ("body", "A JSON body is required")


BODIES = [
    ("POST", "/jobs"),
    ("POST", "/jobs/batch"),
    ("POST", "/reminders"),
    ("PATCH", "/reminders/1"),
    ("POST", "/admin/api-keys"),
]


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_of_many_errors_in_a_body_the_first_are_listed(
    client: httpx.AsyncClient, auth: Auth, method: str, path: str
) -> None:
    body = {f"key-{number}": 1 for number in range(1000)}
    answer = await client.request(method, path, json=body, headers=auth("admin"))
    problem = assert_problem(answer, 422)
    assert len(problem["errors"]) == 50
    assert "More than 50 values are invalid; the first: " in problem["detail"]
    known = [error for error in problem["errors"] if error["type"] == "extra_forbidden"]
    assert known
    assert all("expected one of" in error["message"] for error in known)


async def test_of_a_query_that_is_wrong_all_over_too(client: httpx.AsyncClient, auth: Auth) -> None:
    query = "&".join(f"key-{number}=1" for number in range(1000))
    answer = await client.get(f"/admin/jobs?{query}", headers=auth("viewer"))
    assert len(assert_problem(answer, 422)["errors"]) == 50


async def test_a_hundred_thousand_unknown_keys_are_cheap(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    body = json.dumps({f"k{number}": 1 for number in range(80_000)}).encode()
    began = time.process_time()
    json.loads(body)
    reading = time.process_time() - began
    headers = auth("service") | {"content-type": "application/json"}
    began = time.process_time()
    answer = await client.post("/jobs", content=body, headers=headers)
    assert answer.status_code == 422
    assert time.process_time() - began < 12 * reading


FULL: dict[str, dict[str, Any]] = {
    "/jobs": {
        "job_type": "m",
        "payload": {},
        "queue": "q",
        "priority": 1,
        "max_retries": 1,
        "timeout_seconds": 1,
        "run_at": "2030-01-01T00:00:00Z",
        "unique_key": "k",
        "backoff": {"base_seconds": 1, "factor": 2, "cap_seconds": 9, "jitter": 0},
    },
    "/reminders": {
        "message": "m",
        "send_at": "2030-01-01T00:00:00Z",
        "channel": "log",
        "recipient": "r",
    },
    "/admin/api-keys": {
        "name": "n",
        "scopes": ["jobs:read"],
        "expires_at": "2030-01-01T00:00:00Z",
        "queues": ["q"],
        "job_types": ["m"],
        "priorities": [1],
    },
}
"""Of each body every member, with a value that holds."""
WRONG: list[Any] = [True, -1, 10**30, 0.5, "", "\0", "x y", [], [[]], {}, {"a": {}}, "2030-13-01"]
INTERNALS = re.compile(r"0x|function|lambda|validator|constrained|nullable|\bNone\b|Value error|\[")


def wrong_bodies() -> Iterator[tuple[str, str, dict[str, Any], str]]:
    for path, body in FULL.items():
        targets = [("POST", path, body)]
        if path == "/reminders":
            targets.append(("PATCH", "/reminders/1", body))
        if path == "/jobs":
            targets.append(("POST", "/jobs/batch", {"jobs": [body]}))
        for method, target, whole in targets:
            for name in body:
                for value in WRONG:
                    changed = body | {name: value}
                    sent = {"jobs": [changed]} if "jobs" in whole else changed
                    yield method, target, sent, name
        for name in body.get("backoff", ()):
            for value in WRONG:
                yield "POST", path, body | {"backoff": body["backoff"] | {name: value}}, name


async def test_every_refusal_names_a_field_and_its_rule_and_nothing_of_ours(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    refused = 0
    for method, path, body, name in wrong_bodies():
        answer = await client.request(method, path, json=body, headers=auth("admin"))
        if answer.status_code != 422:
            assert answer.status_code < 500, (path, name, answer.text)
            continue
        refused += 1
        errors = answer.json()["errors"]
        fields = [error["field"] for error in errors]
        assert len(fields) == len(set(fields)), (path, name, errors)
        for error in errors:
            assert re.fullmatch(r"body(\.[a-z_]+|\.\d+)*", error["field"]), error
            assert not INTERNALS.search(error["message"]), error
    assert refused > 200


@pytest.mark.parametrize(
    "moment",
    [
        "9999-12-31T23:59:59-23:59",
        "9999-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00Z",
        "2201-01-01T00:00:00Z",
        "2030-01-01T00:00:00",
        1_900_000_000,
        "1900000000",
        1.5,
        "2030-02-30T00:00:00Z",
    ],
)
@pytest.mark.parametrize(
    ("path", "name"),
    [("/jobs", "run_at"), ("/reminders", "send_at"), ("/admin/api-keys", "expires_at")],
)
async def test_every_time_in_a_body_has_one_rule(
    client: httpx.AsyncClient, auth: Auth, path: str, name: str, moment: object
) -> None:
    answer = await client.post(path, json=FULL[path] | {name: moment}, headers=auth("admin"))
    error = only_error(answer)
    assert error["field"] == f"body.{name}"


async def test_a_time_in_an_answer_has_its_zone_whatever_sql_put_there(
    client: httpx.AsyncClient, auth: Auth, pg_dsn: str
) -> None:
    made = await client.post("/admin/api-keys", json=FULL["/admin/api-keys"], headers=auth("admin"))
    assert made.json()["expires_at"] == "2030-01-01T00:00:00Z"
    await databases.execute(pg_dsn, "UPDATE api_keys SET expires_at = 'infinity'")
    (key,) = (await client.get("/admin/api-keys", headers=auth("admin"))).json()["api_keys"]
    assert key["expires_at"].endswith("Z")
