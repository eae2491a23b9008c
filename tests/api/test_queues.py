"""`/queues`: what each holds, pausing it, and what a job of a paused one says."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.audit import AuditFilters
from service.audit.repository import newest
from service.jobs import NewJob, enqueue_batch
from service.jobs.read import queues as queue_list
from tests import databases
from tests.api.conftest import Auth

REASON = "the provider is down"


async def enqueue(app: FastAPI, *jobs: NewJob) -> list[int]:
    async with app.state.service.database.sessions.begin() as session:
        return [job.id for job in await enqueue_batch(session, jobs)]


async def queues(client: httpx.AsyncClient, auth: Auth) -> dict[str, Any]:
    answer = await client.get("/queues", headers=auth("viewer"))
    assert answer.status_code == 200, answer.text
    return {queue["name"]: queue for queue in answer.json()["queues"]}


async def change(client: httpx.AsyncClient, auth: Auth, name: str, **body: Any) -> Any:
    answer = await client.patch(f"/queues/{name}", json=body, headers=auth("operator", "olga"))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_queue_is_paused_with_a_reason_and_resumed(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    paused = await change(client, auth, "mail", paused=True, reason=REASON)
    assert (paused["name"], paused["paused"]) == ("mail", True)
    assert (paused["by"], paused["reason"]) == ("olga", REASON)
    assert (await queues(client, auth))["mail"] == paused
    resumed = await change(client, auth, "mail", paused=False)
    assert (resumed["paused"], resumed["since"]) == (False, None)
    assert "mail" not in await queues(client, auth)


async def test_each_pause_and_each_end_of_one_is_in_the_audit_log(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth
) -> None:
    paused = await change(client, auth, "mail", paused=True, reason=REASON)
    await change(client, auth, "mail", paused=False, reason="it is up")
    await change(client, auth, "mail", paused=False)  # nothing to resume
    async with app.state.service.database.sessions.begin() as session:
        entries = await newest(session, AuditFilters(subject_type="queue"), limit=9)
    shown = [(one.action, one.subject_id, one.actor, one.reason) for one in entries]
    assert shown == [
        ("queue.resume", "mail", "olga", "it is up"),
        ("queue.pause", "mail", "olga", REASON),
    ]
    resumed, started = entries
    assert (started.before, resumed.after) == (None, None)
    assert resumed.before == started.after
    assert (started.after["by"], started.after["reason"]) == (paused["by"], REASON)


LIMITS = {
    "max_running": 40,
    "max_running_per_key": 3,
    "rate": {"limit": 100, "per_seconds": 60.0, "burst": 10},
    "rate_per_key": {"limit": 5, "per_seconds": 1.5, "burst": None},
    "weight": 5,
    "key_fairness": True,
    "at_limit": "wait",
}
NO_LIMITS = {
    "max_running": None,
    "max_running_per_key": None,
    "rate": None,
    "rate_per_key": None,
    "weight": None,
    "key_fairness": False,
    "at_limit": "wait",
}


def limits(queue: Any) -> Any:
    return {name: queue[name] for name in LIMITS}


async def test_limits_are_set_one_by_one_and_lifted(client: httpx.AsyncClient, auth: Auth) -> None:
    queue = await change(client, auth, "mail", **LIMITS)
    assert (limits(queue), queue["changed_by"], queue["permits_used"]) == (LIMITS, "olga", 0)
    assert (await queues(client, auth))["mail"] == queue
    answer = await client.get("/queues/mail", headers=auth("viewer"))
    assert answer.json() == queue
    queue = await change(client, auth, "mail", rate={"limit": 5, "per_seconds": 1})
    assert limits(queue) == LIMITS | {"rate": {"limit": 5, "per_seconds": 1.0, "burst": None}}
    queue = await change(client, auth, "mail", max_running=None)
    assert (queue["max_running"], queue["permits_used"], queue["weight"]) == (None, None, 5)
    queue = await change(client, auth, "mail", **dict.fromkeys(LIMITS))
    assert limits(queue) == NO_LIMITS
    assert "mail" not in await queues(client, auth)


async def test_limits_stay_when_a_queue_is_paused_and_resumed(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    await change(client, auth, "mail", paused=True, max_running=2, reason=REASON)
    await change(client, auth, "mail", max_running=3)
    assert (await change(client, auth, "mail"))["reason"] == REASON
    assert (await change(client, auth, "mail", paused=False))["max_running"] == 3
    assert (await queues(client, auth))["mail"]["paused"] is False


async def test_each_change_of_limits_is_in_the_audit_log(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth
) -> None:
    await change(client, auth, "mail", max_running=2, reason=REASON)
    await change(client, auth, "mail", max_running=2)  # nothing changes
    await change(client, auth, "mail", max_running=None)
    async with app.state.service.database.sessions.begin() as session:
        entries = await newest(session, AuditFilters(subject_type="queue"), limit=9)
    lifted, made = entries
    assert (made.action, made.actor, made.reason) == ("queue.configure", "olga", REASON)
    assert (made.before, made.after) == (NO_LIMITS, NO_LIMITS | {"max_running": 2})
    assert (lifted.before, lifted.after) == (made.after, made.before)


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"max_running": 0}, "max_running", "max_running is 0: expected a whole number from 1 to"),
        ({"max_running": "4"}, "max_running", "valid integer"),
        ({"max_running_per_key": 1_000_001}, "max_running_per_key", "is 1000001: expected"),
        ({"rate": {"limit": 0, "per_seconds": 1}}, "rate.limit", "rate.limit is 0: expected"),
        ({"rate": {"limit": 1}}, "rate.per_seconds", "required"),
        (
            {"rate": {"limit": 1, "per_seconds": 0.01}},
            "rate.per_seconds",
            "per_seconds of rate is 0.01: expected 0.1",
        ),
        ({"rate": {"limit": 1, "per_seconds": 1, "burst": 0}}, "rate.burst", "rate.burst is 0"),
        ({"weight": 1001}, "weight", "weight is 1001: expected a whole number from 1 to 1,000"),
        ({"key_fairness": "yes"}, "key_fairness", "valid boolean"),
        ({"at_limit": "drop"}, "at_limit", "'wait'"),
        ({"maximum": 1}, "maximum", "Unknown: expected one of paused, reason, max_running"),
    ],
)
async def test_a_limit_that_breaks_a_rule_is_refused_by_field_value_and_rule(
    client: httpx.AsyncClient, auth: Auth, body: Any, field: str, words: str
) -> None:
    answer = await client.patch("/queues/q", json=body | {"paused": True}, headers=auth("operator"))
    assert answer.status_code == 422
    refused = answer.json()["errors"][0]
    assert refused["field"] == f"body.{field}"
    assert words in refused["message"]
    assert "q" not in await queues(client, auth)  # neither is it paused


async def test_a_drained_queue_is_paused_and_runs_nothing(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, pg_dsn: str
) -> None:
    await enqueue(app, *[NewJob("x", queue="q") for _ in range(3)])
    running = (
        "UPDATE jobs_live SET status = '{}', lease_until = now() + interval '1 min'"
        " WHERE id = (SELECT max(id) FROM jobs_live)"
    )
    await databases.execute(pg_dsn, running.format("RUNNING"))
    assert (await change(client, auth, "q", paused=True))["drained"] is False
    await databases.execute(pg_dsn, running.format("PENDING"))
    # A process may begin a claim as long as it does not know of the pause.
    assert (await change(client, auth, "q"))["drained"] is False
    await databases.execute(pg_dsn, "UPDATE queues SET paused_at = now() - interval '3 s'")
    assert (await change(client, auth, "q"))["drained"] is True
    await databases.execute(pg_dsn, running.format("RUNNING"))
    assert (await change(client, auth, "q"))["drained"] is False
    # Its worker died: nothing takes the job over before the queue is resumed.
    await databases.execute(pg_dsn, "UPDATE jobs_live SET lease_until = now()")
    queue = await change(client, auth, "q")
    assert (queue["running"], queue["drained"]) == (1, True)


async def test_a_queue_is_not_drained_as_long_as_a_job_runs_that_was_not_counted(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, pg_dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(queue_list, "MAX_COUNTED", 1)
    monkeypatch.setattr(queue_list, "MIN_COUNTED", 1)
    await enqueue(app, *[NewJob("x", queue="q") for _ in range(3)])
    await change(client, auth, "q", paused=True)
    for status, drained in (("RUNNING", False), ("PENDING", True)):
        await databases.execute(
            pg_dsn,
            "UPDATE queues SET paused_at = now() - interval '3 s'",
            f"UPDATE jobs_live SET status = '{status}', lease_until = 'infinity' WHERE id = (SELECT max(id) FROM jobs_live)",
        )
        queue = (await client.get("/queues/q", headers=auth("viewer"))).json()
        assert (queue["exact"], queue["drained"]) == (False, drained)


async def test_held_jobs_and_permits_in_use_are_shown(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, pg_dsn: str
) -> None:
    await enqueue(app, *[NewJob("x", queue="q", priority=n % 2) for n in range(5)])
    await change(client, auth, "q", max_running=2)
    await databases.execute(
        pg_dsn,
        "UPDATE jobs_live SET held_for = 'queue:q', held_due_at = next_run_at,"
        " next_run_at = 'infinity' WHERE id > (SELECT min(id) FROM jobs_live)",
        "INSERT INTO job_permits (key, running) VALUES ('queue:q', 2)",
    )
    queue = (await client.get("/queues/q", headers=auth("viewer"))).json()
    assert (queue["due"], queue["held"], queue["permits_used"]) == (1, 4, 2)


async def test_a_change_of_nothing_tells_what_there_is(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    await change(client, auth, "mail", paused=True, reason=REASON)
    assert (await change(client, auth, "mail"))["reason"] == REASON
    assert (await change(client, auth, "none"))["paused"] is False


async def test_the_list_shows_what_each_queue_holds(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, pg_dsn: str
) -> None:
    await enqueue(app, *[NewJob("x", queue="a", priority=n % 3) for n in range(5)])
    await enqueue(app, NewJob("x", queue="a", delay_seconds=60), NewJob("x", queue="b"))
    await databases.execute(
        pg_dsn,
        "UPDATE jobs_live SET status = 'RUNNING', next_run_at = now() - interval '1 h',"
        " lease_until = now() + interval '1 h' WHERE id = (SELECT min(id) FROM jobs_live)",
    )
    await databases.execute(
        pg_dsn,
        "INSERT INTO job_stats SELECT 'c', 'x', status, current_date, 3"
        " FROM unnest('{FAILED,DEAD_LETTER,SUCCESS}'::text[]) status",
    )
    await databases.execute(
        pg_dsn,
        "INSERT INTO job_workers (name, queues, job_types, concurrency)"
        " VALUES ('w1', '{*}', '{x}', 1), ('w2', '{a:5,d}', '{x}', 1)",
    )
    found = await queues(client, auth)
    shown = {
        name: (one["due"], one["running"], one["dead"], one["workers"])
        for name, one in found.items()
    }
    assert shown == {"a": (4, 1, 0, 2), "b": (1, 0, 0, 1), "c": (0, 0, 6, 1), "d": (0, 0, 0, 2)}
    assert found["a"]["oldest_due_seconds"] < 60
    assert found["c"]["oldest_due_seconds"] is None


async def test_counts_stop_at_their_limit_and_say_so(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_list, "MAX_COUNTED", 3)
    monkeypatch.setattr(queue_list, "MIN_COUNTED", 3)
    await enqueue(app, *[NewJob("x", queue="a") for _ in range(5)])
    found = (await queues(client, auth))["a"]
    assert (found["due"], found["exact"]) == (3, False)


async def test_what_is_paused_comes_first_where_there_are_too_many_queues(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_list, "MAX_QUEUES", 2)
    await enqueue(app, *[NewJob("x", queue=name) for name in "abc"])
    await change(client, auth, "z", paused=True)
    answer = await client.get("/queues", headers=auth("viewer"))
    assert [one["name"] for one in answer.json()["queues"]] == ["a", "z"]
    assert answer.json()["complete"] is False


async def test_a_job_of_a_paused_queue_says_what_it_waits_for(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth
) -> None:
    due, later = await enqueue(
        app, NewJob("x", queue="q"), NewJob("x", queue="q", delay_seconds=60)
    )

    async def waiting(job_id: int) -> Any:
        answer = await client.get(f"/admin/jobs/{job_id}", headers=auth("viewer"))
        return answer.json()["waiting_for"], answer.json()["pause"]

    assert await waiting(due) == ("worker", None)
    paused = await change(client, auth, "q", paused=True, reason=REASON)
    assert await waiting(later) == ("time", None)
    assert await waiting(due) == (
        "queue_paused",
        {"since": paused["since"], "by": "olga", "reason": REASON},
    )


async def test_an_orphan_of_a_paused_queue_says_what_it_waits_for(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, pg_dsn: str
) -> None:
    lost, held = await enqueue(app, NewJob("x", queue="q"), NewJob("x", queue="q"))
    for job_id, lease in ((lost, "-1 h"), (held, "1 h")):
        await databases.execute(
            pg_dsn,
            "UPDATE jobs_live SET status = 'RUNNING', lease_token = 1, worker_id = 1,"
            f" lease_until = now() + interval '{lease}' WHERE id = {job_id}",
        )
    await change(client, auth, "q", paused=True)
    for job_id, reason in ((lost, "queue_paused"), (held, None)):
        answer = await client.get(f"/admin/jobs/{job_id}", headers=auth("viewer"))
        assert answer.json()["waiting_for"] == reason


@pytest.mark.parametrize(
    "body",
    [
        {"paused": "yes"},
        {"paused": 1},
        {"reason": "x" * 501},
        {"reason": "a\0"},
        {"limit": 5},
        [],
    ],
)
async def test_what_is_not_a_change_is_refused(
    client: httpx.AsyncClient, auth: Auth, body: Any
) -> None:
    answer = await client.patch("/queues/q", json=body, headers=auth("operator"))
    assert answer.status_code == 422


async def test_a_name_that_plain_sql_gave_can_be_paused(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    assert (await change(client, auth, "Été%201", paused=True))["name"] == "Été 1"
    answer = await client.patch(
        "/queues/" + "ä" * 51, json={"paused": True}, headers=auth("operator")
    )
    assert answer.status_code == 422
