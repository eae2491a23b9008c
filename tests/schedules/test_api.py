"""`/schedules` over REST."""

from typing import Any

import httpx
import pytest

from service.auth.principal import Permission
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem

RULE: dict[str, Any] = {"cron": "30 6 * * 1-5", "zone": "Europe/Berlin", "job_type": "send"}


async def make(client: httpx.AsyncClient, headers: dict[str, str], name: str, **more: Any) -> Any:
    answer = await client.post("/schedules", json=RULE | {"name": name} | more, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_schedule_is_made_read_listed_paused_resumed_and_deleted(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    service = auth("service", "billing")
    made = await make(client, service, "a", payload={"n": 1})
    assert (made["created_by"], made["queue"], made["paused"]) == ("billing", "default", False)
    assert made["next_tick_at"] == made["due_at"] > made["created_at"]
    await make(client, service, "b", every_seconds=5, cron=None)
    assert (await client.get("/schedules/a", headers=service)).json() == made
    page = (await client.get("/schedules", params={"limit": 1}, headers=service)).json()
    assert [one["name"] for one in page["schedules"]] == ["a"]
    rest = {"limit": 1, "cursor": page["next_cursor"]}
    page = (await client.get("/schedules", params=rest, headers=service)).json()
    assert ([one["name"] for one in page["schedules"]], page["next_cursor"]) == (["b"], None)
    body = {"names": ["a", "b"], "reason": "a test"}
    paused = (await client.post("/schedules/pause", json=body, headers=service)).json()
    assert [(one["paused_by"], one["pause_reason"], one["next_tick_at"])
            for one in paused["schedules"]] == [("billing", "a test", None)] * 2  # fmt: skip
    listed = await client.get("/schedules", params={"paused": "true"}, headers=service)
    assert len(listed.json()["schedules"]) == 2
    resumed = (await client.post("/schedules/a/resume", headers=service)).json()
    assert (resumed["paused"], resumed["next_tick_at"]) == (False, made["next_tick_at"])
    assert (await client.get("/schedules/a/ticks", headers=service)).json()["ticks"] == []
    assert (await client.delete("/schedules/a", headers=service)).status_code == 204
    assert (await client.get("/schedules/a", headers=service)).status_code == 404


async def test_a_client_acts_on_its_own_schedules_and_an_operator_on_all(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    await make(client, auth("service", "billing"), "a")
    for method, path in (("POST", "/a/pause"), ("DELETE", "/a"), ("POST", "/a/resume")):
        answer = await client.request(method, f"/schedules{path}", headers=auth("service", "other"))
        assert_problem(answer, 404)
    body = {"names": ["a", "nobody"]}
    answer = await client.post("/schedules/pause", json=body, headers=auth("operator"))
    assert "There is no schedule nobody" in assert_problem(answer, 404)["detail"]
    assert (await client.post("/schedules/a/pause", headers=auth("operator"))).status_code == 200
    key = {"name": "k", "scopes": ["jobs:read"], "queues": ["other"]}
    made = (await client.post("/admin/api-keys", json=key, headers=auth("admin"))).json()
    bound = {"x-api-key": made["key"]}
    assert (await client.get("/schedules", headers=bound)).json()["schedules"] == []
    assert_problem(await client.get("/schedules/a", headers=bound), 404)
    key = {"name": "k", "scopes": [Permission.SCHEDULES_WRITE], "queues": ["other"]}
    assert (
        await client.post("/admin/api-keys", json=key, headers=auth("admin"))
    ).status_code == 422


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"cron": "0 0 * * * *"}, "body.cron", "a sixth field, for seconds"),
        ({"cron": None}, "body.cron", "cron or every_seconds is missing"),
        ({"every_seconds": 0.2, "cron": None}, "body.every_seconds", "expected 1 to"),
        ({"zone": "Berlin"}, "body.zone", "did you mean Europe/Berlin?"),
        ({"zone": "localtime"}, "body.zone", "not the name of an IANA time zone"),
        ({"every_seconds": 1e9, "cron": None}, "body.every_seconds", "1 to 31622400 (366 days)"),
        ({"jitter_seconds": 86400}, "body.jitter_seconds", "ticks come 86400 s apart"),
        ({"catch_up_seconds": -1}, "body.catch_up_seconds", "expected 0 to"),
        ({"pause_after_failures": 0}, "body.pause_after_failures", "expected 1 to 1000"),
        ({"payload": {"t": 1}, "tick_member": "t"}, "body.payload", "has a member 't'"),
        (
            {"payload": {"a": "x" * 20_000}},
            "body.payload",
            "at most 16384 are allowed in a schedule",
        ),
        ({"overlap": "never"}, "body.overlap", "'skip', 'queue_one'"),
        ({"name": "no spaces"}, "body.name", "1 to 100 letters, digits"),
        ({"seconds": 1}, "body.seconds", "pause_after_failures"),
    ],
)
async def test_bad_input_is_refused_with_field_value_and_rule(
    client: httpx.AsyncClient, auth: Auth, change: dict[str, Any], field: str, says: str
) -> None:
    body = RULE | {"name": "a"} | change
    answer = await client.post("/schedules", json=body, headers=auth("service"))
    problem = assert_problem(answer, 422)
    (error,) = problem.get("errors") or [
        {"field": problem.get("field"), "detail": problem["detail"]}
    ]
    assert (field, says in str(error)) == (error["field"], True), problem


async def test_names_are_unique_and_schedules_bounded(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    await make(client, auth("service"), "a")
    answer = await client.post("/schedules", json=RULE | {"name": "a"}, headers=auth("service"))
    assert "There is a schedule 'a' already" in assert_problem(answer, 409)["detail"]
    answer = await client.post(
        "/schedules", json=RULE | {"name": "b", "job_type": "finmind.operation"},
        headers=auth("service"),
    )  # fmt: skip
    assert_problem(answer, 403)


async def test_a_preview_shows_the_next_change_of_the_clock(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    body = {
        "cron": "30 2 * * *",
        "zone": "Europe/Berlin",
        "after": "2027-03-27T12:00:00Z",
        "count": 1,
    }
    answer = await client.post("/schedules/preview", json=body, headers=auth("viewer"))
    assert answer.json()["ticks"] == [
        {"at": "2027-03-28T01:00:00Z", "local": "2027-03-28T03:00:00+02:00"}
    ]
    change = answer.json()["clock_change"]
    assert (change["at"], change["offset_before"], change["offset_after"]) == (
        "2027-03-28T01:00:00Z", "+01:00", "+02:00",
    )  # fmt: skip
    assert len(change["ticks"]) == 5
