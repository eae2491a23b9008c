"""What clients do to jobs: to their own, and not to those of others."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.jobs import enqueue as enqueue_job
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem

JOB = {"job_type": "mail", "payload": {"to": "ann"}}


async def enqueue(client: httpx.AsyncClient, headers: dict[str, str], **more: Any) -> int:
    answer = await client.post("/jobs", json=JOB | more, headers=headers)
    return int(answer.json()["id"])


async def run(app: FastAPI, job_id: int) -> None:
    """As a worker of another process does."""
    async with app.state.service.database.engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = 1,"
                " lease_until = now() + interval '1 minute' WHERE id = :id"
            ),
            {"id": job_id},
        )


async def test_a_client_cancels_its_own_pending_job(client: httpx.AsyncClient, auth: Auth) -> None:
    ann = auth("service", "ann")
    job_id = await enqueue(client, ann)
    answer = await client.post(
        f"/jobs/{job_id}/cancel", params={"reason": "withdrawn"}, headers=ann
    )
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    report = answer.json()["cancel"]
    assert (report["by"], report["reason"], report["how"]) == ("ann", "withdrawn", "not_started")
    assert report["requested_at"]
    assert report["ended_at"]
    assert (await client.get(f"/jobs/{job_id}", headers=ann)).json()["cancel"] == report
    problem = assert_problem(await client.post(f"/jobs/{job_id}/cancel", headers=ann), 409)
    assert "CANCELLED" in problem["detail"]


async def test_the_cancel_of_a_running_job_is_accepted_and_shown(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth
) -> None:
    ann = auth("service", "ann")
    job_id = await enqueue(client, ann)
    await run(app, job_id)
    answers = [await client.post(f"/jobs/{job_id}/cancel", headers=ann) for _ in range(2)]
    for answer in answers:
        assert (answer.status_code, answer.json()["status"]) == (202, "RUNNING")
    report = answers[0].json()["cancel"]
    assert (report["by"], report["ended_at"], report["how"]) == ("ann", None, None)
    assert answers[1].json()["cancel"] == report
    operator = auth("operator", "olga")
    detail = (await client.get(f"/admin/jobs/{job_id}", headers=operator)).json()
    assert detail["cancel"] == report
    assert (await client.post(f"/admin/jobs/{job_id}/cancel", headers=operator)).status_code == 202


VERBS: dict[str, tuple[str, str, Any]] = {
    "cancel": ("POST", "/cancel", None),
    "run now": ("POST", "/run-now", None),
    "change": ("PATCH", "", {"priority": 1}),
    "event": ("POST", "/events/paid", {"data": 12}),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_client_changes_nothing_of_another(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, verb: str
) -> None:
    method, path, body = VERBS[verb]

    async def send(job_id: int, headers: dict[str, str]) -> httpx.Response:
        return await client.request(method, f"/jobs/{job_id}{path}", json=body, headers=headers)

    job_id = await enqueue(client, auth("service", "ann"))
    problem = assert_problem(await send(job_id, auth("service", "bob")), 403)
    assert "admin:operate" in problem["detail"]
    writer = await client.post(
        "/admin/api-keys", json={"name": "w", "scopes": ["jobs:write"]}, headers=auth("admin")
    )
    only_writes = {"X-API-Key": writer.json()["key"]}
    assert_problem(await send(job_id, only_writes), 404)
    assert_problem(await send(9999, only_writes), 404)
    async with app.state.service.database.engine.begin() as connection:
        row = (await connection.execute(text("SELECT cancel, priority FROM jobs_live"))).one()
    assert tuple(row) == (None, 2)
    assert (await send(job_id, auth("admin", "root"))).is_success


async def test_a_client_sends_its_job_an_event_once(client: httpx.AsyncClient, auth: Auth) -> None:
    ann = auth("service", "ann")
    path = f"/jobs/{await enqueue(client, ann)}/events"
    first = await client.post(f"{path}/paid", json={"data": {"amount": 12}}, headers=ann)
    assert first.status_code == 201
    assert first.json()["sent_by"] == "ann"
    again = await client.post(f"{path}/paid", json={"data": {"amount": 12}}, headers=ann)
    assert (again.status_code, again.json()) == (200, first.json())
    other = await client.post(f"{path}/paid", json={"data": 13}, headers=ann)
    assert "with other data" in assert_problem(other, 409)["detail"]
    assert (await client.post(f"{path}/seen", headers=ann)).json()["data"] is None
    large = await client.post(f"{path}/large", json={"data": "x" * 20_000}, headers=ann)
    assert "at most 16384 are allowed" in assert_problem(large, 422)["detail"]
    for bad, body in (("a%20b", {}), ("paid", {"payload": 1}), ("paid", [1])):
        assert_problem(await client.post(f"{path}/{bad}", json=body, headers=ann), 422)


async def test_jobs_of_python_and_sql_belong_to_nobody(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth
) -> None:
    async with app.state.service.database.sessions.begin() as session:
        await enqueue_job(session, "mail")
    for method, path, body in VERBS.values():
        answer = await client.request(
            method, f"/jobs/1{path}", json=body, headers=auth("service", "ann")
        )
        assert_problem(answer, 403)


async def test_a_key_that_may_only_write_cancels_its_own_job_and_reads_no_result(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth
) -> None:
    made = await client.post(
        "/admin/api-keys", json={"name": "w", "scopes": ["jobs:write"]}, headers=auth("admin")
    )
    key = {"X-API-Key": made.json()["key"]}
    job_id = await enqueue(client, key)
    async with app.state.service.database.engine.begin() as connection:
        await connection.execute(text("UPDATE jobs_live SET last_error = 'secret'"))
    answer = await client.post(f"/jobs/{job_id}/cancel", headers=key)
    assert (answer.status_code, answer.json()["last_error"]) == (200, None)


@pytest.mark.parametrize("odd", ["1", '"x"', "[]", '{"by": [1], "how": {}}', "{}"])
async def test_whatever_the_column_holds_is_shown_without_an_error(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, odd: str
) -> None:
    ann = auth("service", "ann")
    job_id = await enqueue(client, ann)
    async with app.state.service.database.engine.begin() as connection:
        await connection.execute(
            text("UPDATE jobs_live SET cancel = CAST(:odd AS jsonb)"), {"odd": odd}
        )
    for path in (f"/jobs/{job_id}", f"/admin/jobs/{job_id}"):
        answer = await client.get(path, headers=auth("admin"))
        assert answer.status_code == 200
        assert answer.json()["cancel"]["how"] is None
    answer = await client.post(f"/jobs/{job_id}/cancel", headers=ann)
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")


# -- change ---------------------------------------------------------------------------------------


async def test_a_client_changes_its_own_pending_job(client: httpx.AsyncClient, auth: Auth) -> None:
    ann = auth("service", "ann")
    job_id = await enqueue(client, ann)
    change = {
        "payload": {"to": "bob"}, "queue": "slow", "priority": 7, "max_retries": 0,
        "run_at": "2031-01-31T09:00:00Z", "reason": "she moved",
    }  # fmt: skip
    answer = await client.patch(f"/jobs/{job_id}", json=change, headers=ann)
    assert answer.status_code == 200, answer.text
    job = answer.json()
    given = {name: change[name] for name in ("payload", "queue", "priority", "max_retries")}
    assert given.items() <= job.items()
    assert job["next_run_at"] == change["run_at"]
    read = await client.get(f"/jobs/{job_id}", headers=ann)
    assert (read.json(), read.headers["etag"]) == (job, answer.headers["etag"])
    hastened = await client.post(f"/jobs/{job_id}/run-now", headers=ann)
    assert hastened.status_code == 200
    assert hastened.json()["next_run_at"] < change["run_at"]
    assert hastened.headers["etag"] != answer.headers["etag"]


async def test_a_change_of_an_older_version_is_refused_and_says_what_to_do(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ann = auth("service", "ann")
    path = f"/jobs/{await enqueue(client, ann)}"
    first = (await client.get(path, headers=ann)).headers["etag"]

    async def change(if_match: str | None, headers: dict[str, str] = ann) -> httpx.Response:
        more = {} if if_match is None else {"If-Match": if_match}
        place = path if headers is ann else f"/admin{path}"
        return await client.patch(place, json={"priority": 1}, headers=headers | more)

    changed = await change(first)
    assert changed.status_code == 200
    second = changed.headers["etag"]
    assert second != first
    for headers in (ann, auth("operator", "olga")):
        problem = assert_problem(await change(first, headers), 412)
        assert problem["type"].endswith(":outdated")
        assert first in problem["detail"]
        assert second in problem["detail"]
        assert "without If-Match" in problem["detail"]
    assert (await change(f"{first}, {second}")).status_code == 200
    assert (await change("*")).status_code == 200
    assert (await change(None)).status_code == 200
    for bad in ("", "x", "W/" + second, '"1', '"a"', ", ".join(['"1"'] * 11)):
        assert_problem(await change(bad), 422)


async def test_of_changes_of_one_version_at_the_same_time_one_is_made(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ann = auth("service", "ann")
    path = f"/jobs/{await enqueue(client, ann)}"
    version = (await client.get(path, headers=ann)).headers["etag"]
    answers = await asyncio.gather(
        *(
            client.patch(path, json={"priority": n}, headers=ann | {"If-Match": version})
            for n in range(10)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 9
    (made,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert (await client.get(path, headers=ann)).json() == made


async def test_every_step_of_a_job_is_another_version(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth
) -> None:
    ann = auth("service", "ann")
    job_id = await enqueue(client, ann)
    path, seen = f"/jobs/{job_id}", []

    async def note() -> None:
        answer = await client.get(path, headers=ann)
        detail = await client.get(f"/admin{path}", headers=auth("viewer"))
        assert answer.headers["etag"] == detail.headers["etag"]
        seen.append(answer.headers["etag"])

    async def sql(statement: str) -> None:
        async with app.state.service.database.engine.begin() as connection:
            await connection.execute(text(statement))

    await note()
    await run(app, job_id)
    await note()
    await sql("UPDATE jobs_live SET status = 'PENDING', lease_until = NULL")
    await note()
    await client.post(f"{path}/cancel", headers=ann)
    await note()
    assert len(set(seen)) == 4
    # Neither a lock nor the clean-up of old rows is a change.
    async with app.state.service.database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("VACUUM (FREEZE, FULL) background_jobs"))
    await sql("SELECT * FROM background_jobs FOR UPDATE")
    await note()
    assert seen[-1] == seen[-2]


async def test_what_a_client_could_not_enqueue_it_cannot_change_a_job_to(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    limits = {"queues": ["mail"], "priorities": [2, 3]}
    made = await client.post(
        "/admin/api-keys",
        json={"name": "k", "scopes": ["jobs:write", "jobs:read"], **limits},
        headers=auth("admin"),
    )
    assert made.status_code == 201, made.text
    key = {"X-API-Key": made.json()["key"]}
    path = f"/jobs/{await enqueue(client, key, queue='mail')}"
    assert_problem(await client.patch(path, json={"queue": "other"}, headers=key), 403)
    assert_problem(await client.patch(path, json={"priority": 0}, headers=key), 403)
    assert (await client.patch(path, json={"priority": 3}, headers=key)).status_code == 200


@pytest.mark.parametrize(
    ("change", "held"),
    [
        ({"priority": 1}, False), ({"queue": "slow"}, False),
        ({"run_at": "2031-01-31T09:00:00Z"}, False), ({"max_retries": 1}, True),
        ({"payload": {"n": 1}}, True), (None, False),
    ],
)  # fmt: skip
async def test_what_a_limit_holds_asks_for_it_anew_where_its_place_changes(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, change: Any, held: bool
) -> None:
    ann = auth("service", "ann")
    job_id = await enqueue(client, ann)
    async with app.state.service.database.engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE jobs_live SET held_for = 'queue:default', held_since = now(),"
                " held_due_at = next_run_at, next_run_at = 'infinity'"
            )
        )
    answer = (
        await client.post(f"/jobs/{job_id}/run-now", headers=ann)
        if change is None
        else await client.patch(f"/jobs/{job_id}", json=change, headers=ann)
    )
    assert answer.status_code == 200, answer.text
    assert (answer.json()["held_for"] is not None) is held
    async with app.state.service.database.engine.begin() as connection:
        state = await connection.execute(
            text(
                "SELECT held_for IS NOT NULL, held_since IS NOT NULL, held_due_at IS NOT NULL,"
                " next_run_at = 'infinity' FROM jobs_live"
            )
        )
        assert tuple(state.one()) == (held,) * 4
