"""What operators do by the client, and batches, against a real service that runs jobs."""

from collections.abc import Callable

import pytest
from pydantic import SecretStr

from finmind_client import AsyncClient, Conflict, NewJob, NotFound
from service.settings import Settings
from tests.dashboard.served import serving
from tests.jobs.waiting import until


@pytest.mark.whole
async def test_batches_are_filled_and_operators_find_and_repair_what_failed(
    make_settings: Callable[..., Settings], pg_dsn: str
) -> None:
    settings = make_settings(
        database_url=SecretStr(pg_dsn), handler_modules=("service.demo",), default_max_retries=0
    )
    async with (
        serving(settings, worker=True) as served,
        AsyncClient(served.url, token=served.token("admin")) as client,
    ):
        admin, batches = client.admin, client.batches
        made = await batches.create("invoices", on_complete=NewJob("demo.ok", {"number": 3}))
        added = await batches.add(made["id"], [NewJob("demo.ok"), NewJob("demo.permanent")])
        assert added.created == 2
        await batches.close(made["id"])
        with pytest.raises(Conflict):
            await batches.add(made["id"], [NewJob("demo.ok")])

        async def complete() -> bool:
            return bool((await batches.get(made["id"]))["complete_job_id"])

        await until(complete)
        assert [one["id"] async for one in batches.list()] == [made["id"]]
        other = await batches.create("nothing")
        assert (await batches.cancel(other["id"]))["cancelled_at"]
        chained = await client.enqueue_chain([NewJob("demo.ok"), NewJob("demo.ok")])
        assert (await client.wait(chained.ids[1], timeout_seconds=30)).status == "SUCCESS"
        later = await client.enqueue("demo.ok", delay_seconds=1000)
        assert (await client.explain(later.id))["waiting_for"] == "time"
        event = await client.send_event(later.id, "paid", {"by": "card"})
        assert (event["name"], event["was_awaited"]) == ("paid", False)
        assert (await admin.cancel(later.id, reason="a test")).status == "CANCELLED"

        # One cause, repaired by an operation.
        causes = [one async for one in admin.dead_letters(job_type="demo.permanent")]
        assert len(causes) == 1
        fingerprint = causes[0]["fingerprint"]
        decided = await admin.decide(fingerprint, "ignore", reason="known", count=5)
        assert decided["state"] == "ignored"
        failed = {"status": "FAILED", "job_type": "demo.permanent"}
        assert (await admin.preview("retry", filter=failed))["count"] == 1
        begun = await admin.start("retry", filter=failed, reason="a test")
        assert (await admin.wait_operation(begun["id"], timeout_seconds=30))["changed"] == 1
        with pytest.raises(Conflict):
            await admin.change_operation(begun["id"], "pause")
        assert [one["id"] async for one in admin.operations()] == [begun["id"]]
        assert (await admin.job(added.ids[1]))["job_type"] == "demo.permanent"
        assert [line async for line in admin.logs(added.ids[1])] == []
        actions = [entry["action"] async for entry in admin.audit(limit=2)]
        assert {"operation.start", "job.cancel"} <= set(actions)
        assert [one["status"] for one in await admin.workers()] == ["live"]
        assert [one async for one in admin.targets()] == []
        with pytest.raises(NotFound):
            await admin.drain(4711)
        with pytest.raises(NotFound):
            await admin.reset_target("https://nobody.example")
