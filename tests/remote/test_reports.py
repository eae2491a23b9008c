"""What workers report over HTTP: fenced, job by job, safe to repeat."""

import asyncio
from typing import Any

import httpx

from service.jobs.core.backoff import MAX_DELAY_SECONDS
from tests.api.conftest import Auth
from tests.remote.conftest import Call, Sql, lease


async def end_leases(sql: Sql) -> None:
    await sql.execute("UPDATE jobs_live SET lease_until = now() - interval '1 second'")


async def claim_one(call: Call, **body: Any) -> dict[str, Any]:
    claimed = await call("claim", wait_seconds=10.0, **body)
    job: dict[str, Any] = claimed["jobs"][0]
    return job


async def test_a_lost_lease_takes_no_report(call: Call, enqueue: Call, sql: Sql) -> None:
    await enqueue()
    stalled = await claim_one(call)
    await end_leases(sql)
    rescued = await claim_one(call, worker="w:2")
    assert (rescued["id"], rescued["attempt"]) == (stalled["id"], 2)
    assert rescued["lease_token"] > stalled["lease_token"]
    for path, more in (
        ("complete", {}),
        ("fail", {"error": {"message": "late"}}),
        ("snooze", {"seconds": 5}),
        ("release", {}),
    ):
        told = await call(path, jobs=[lease(stalled, **more)])
        assert told["jobs"] == [{**lease(stalled), "outcome": "lease_lost", "status": None}], path
    beat = (await call("heartbeat", jobs=[lease(stalled), lease(rescued)]))["jobs"]
    assert [one["state"] for one in beat] == ["lease_lost", "held"]
    told = await call("complete", jobs=[lease(rescued), lease(stalled)])
    assert [one["outcome"] for one in told["jobs"]] == ["recorded", "lease_lost"]


async def test_a_report_can_be_repeated(call: Call, enqueue: Call, sql: Sql) -> None:
    await enqueue()
    job = await claim_one(call)
    both = await asyncio.gather(
        call("complete", jobs=[lease(job, result=1)]), call("complete", jobs=[lease(job, result=2)])
    )
    outcomes = sorted(told["jobs"][0]["outcome"] for told in both)
    assert outcomes in (["recorded", "recorded"], ["recorded", "repeated"])
    again = await call("complete", jobs=[lease(job, result=3)])
    assert again["jobs"] == [{**lease(job), "outcome": "repeated", "status": "SUCCESS"}]
    failed = await call("fail", jobs=[lease(job, error={"message": "no"})])
    assert failed["jobs"][0] == {**lease(job), "outcome": "repeated", "status": "SUCCESS"}
    assert (await sql.fetch("SELECT count(*) FROM jobs_done"))[0][0] == 1


async def test_failures_follow_the_policy_of_every_worker(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    made = await enqueue()
    error = {"type": "SMTPError", "message": "451 busy", "traceback": "at send (mail.js:17)"}
    told = await call("fail", jobs=[lease(await claim_one(call), error=error)])
    assert told["jobs"][0]["status"] == "PENDING"
    last = await claim_one(call)
    assert (last["id"], last["attempt"], last["max_attempts"]) == (made, 2, 2)
    told = await call("fail", jobs=[lease(last, error=error)])
    assert told["jobs"][0]["status"] == "DEAD_LETTER"
    shown = (await client.get(f"/admin/jobs/{made}", headers=auth("admin"))).json()
    assert shown["last_error"] == "SMTPError: 451 busy"
    assert [(one["attempt"], one["worker"]) for one in shown["errors"]] == [(1, "w:1"), (2, "w:1")]
    assert shown["errors"][0]["traceback"] == "at send (mail.js:17)"
    groups = await client.get("/admin/dead-letters/groups", headers=auth("admin"))
    assert groups.status_code == 200


async def test_one_report_does_not_take_others_along(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth
) -> None:
    for _ in range(5):
        await enqueue()
    jobs = (await call("claim", limit=5))["jobs"]
    large = "x" * 300_000
    told = await call("complete", jobs=[lease(jobs[0], result=large), lease(jobs[1], result=[1])])
    assert [one["status"] for one in told["jobs"]] == ["FAILED", "SUCCESS"]
    told = await call(
        "fail",
        jobs=[
            lease(jobs[2], error={}, permanent=True),
            lease(jobs[3], error={}, retry_after_seconds=60),
        ],
    )
    assert [one["status"] for one in told["jobs"]] == ["FAILED", "PENDING"]
    told = await call("snooze", jobs=[lease(jobs[4], seconds=60)])
    assert told["jobs"][0]["status"] == "PENDING"
    snoozed = (await client.get(f"/jobs/{jobs[4]['id']}", headers=auth("admin"))).json()
    assert (snoozed["status"], snoozed["attempts"]) == ("PENDING", 0)


async def test_a_released_job_runs_again_at_once_and_has_used_no_attempt(
    call: Call, enqueue: Call
) -> None:
    made = await enqueue()
    await call("release", jobs=[lease(await claim_one(call))])
    again = await claim_one(call, worker="w:2")
    assert (again["id"], again["attempt"]) == (made, 1)


async def test_a_job_that_loses_its_leases_is_poison_for_remote_workers_too(
    call: Call, enqueue: Call, client: httpx.AsyncClient, auth: Auth, sql: Sql
) -> None:
    made = await enqueue(max_retries=100)
    await claim_one(call)
    await sql.execute("UPDATE jobs_live SET lost_leases = 4")
    await end_leases(sql)
    assert (await call("claim", wait_seconds=1.0))["jobs"] == []
    shown = (await client.get(f"/admin/jobs/{made}", headers=auth("admin"))).json()
    assert shown["status"] == "DEAD_LETTER"
    assert "5 times in a row" in shown["last_error"]


async def test_an_attempt_that_takes_too_long_is_ended_by_the_service(
    call: Call, enqueue: Call, sql: Sql
) -> None:
    await enqueue(timeout_seconds=60)
    job = await claim_one(call)
    beat = (await call("heartbeat", jobs=[lease(job)]))["jobs"][0]
    assert beat["state"] == "held"
    assert 50 < beat["timeout_in_seconds"] <= 60
    await sql.execute("UPDATE jobs_live SET started_at = now() - interval '61 seconds'")
    beat = (await call("heartbeat", jobs=[lease(job)]))["jobs"][0]
    assert (beat["state"], beat["lease_seconds"]) == ("timed_out", 0)
    told = await call("complete", jobs=[lease(job)])
    assert told["jobs"][0]["outcome"] in {"repeated", "lease_lost"}
    again = await claim_one(call)
    assert again["attempt"] == 2
    (row,) = await sql.fetch("SELECT last_error FROM jobs_live")
    assert row[0].startswith("HandlerTimeout: the handler took longer than its timeout of 60 s")


async def test_bad_input_is_refused_by_name(call: Call) -> None:
    assert MAX_DELAY_SECONDS > 0
    for path, body, words in (
        ("claim", {"limit": 101}, "body.limit"),
        ("claim", {"job_types": []}, "body.job_types"),
        ("claim", {"job_types": ["a b"]}, "body.job_types.0"),
        ("claim", {"worker": ""}, "body.worker"),
        ("claim", {"lim": 1}, "body.lim"),
        ("complete", {"jobs": []}, "body.jobs"),
        ("complete", {"jobs": [{"id": 1}]}, "body.jobs.0.lease_token"),
        ("complete", {"jobs": [{"id": 1, "lease_token": 2}] * 2}, "body.jobs.1"),
        ("snooze", {"jobs": [{"id": 1, "lease_token": 2, "seconds": -1}]}, "body.jobs.0.seconds"),
        ("register", {"policies": {"other": {}}}, "body"),
    ):
        refused = await call(path, status=422, **body)
        assert [one["field"] for one in refused["errors"]] == [words], (path, body)
