"""A target that keeps failing is left alone; its jobs wait without using attempts, and others do not."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import cast

import httpx
import pytest
from sqlalchemy import text

from service.db.engine import Database
from service.db.session import fetch
from service.jobs import JobContext, Snooze, store
from service.jobs.core.job import JobId
from service.jobs.read.advice import summary
from service.jobs.read.explain import explain
from service.jobs.read.waiting import Waiting
from service.settings import Settings
from service.targets import repository
from service.targets.breaker import Breakers
from service.targets.tending import Tending
from service.targets.url import parse_url
from tests.api.conftest import Auth

from .conftest import StartProcess, eventually, put_requests, read_all
from .servers import Got, answer, black_hole, running

NAME = "crm.example.com:443"


@pytest.mark.whole
async def test_a_dead_host_slows_no_other_and_uses_no_attempts_once_it_is_known(
    database: Database, process: StartProcess
) -> None:
    """A listener that says nothing, and three processes with ten slots each."""
    options = {"worker_concurrency": 10, "target_breaker_failures": 2, "target_breaker_seconds": 60}
    async with black_hole() as port, running() as alive:
        dead = f"http://127.0.0.1:{port}/"
        slow = [{"url": dead, "timeout_seconds": 1} for _ in range(60)]
        async with process(**options), process(**options), process(**options):
            held = await put_requests(database, *slow)
            quick = await put_requests(database, *({"url": alive.url} for _ in range(60)))

            async def delivered() -> bool:
                return {job.status for job in await read_all(database, quick)} == {"SUCCESS"}

            async def parked() -> bool:
                jobs = await read_all(database, held)
                waiting = [job for job in jobs if job.held_for == f"breaker:127.0.0.1:{port}"]
                return len(waiting) + sum(job.attempts > 0 for job in jobs) == len(jobs)

            await eventually(delivered)
            await eventually(parked)
            jobs = await read_all(database, held)
    tried = [job for job in jobs if job.attempts]
    # Each process counts for itself, and has as many requests at once as open a breaker, or a little more.
    assert 2 <= len(tried) <= 12
    waiting = next(job for job in jobs if job.held_for)
    assert (waiting.status, waiting.attempts, waiting.errors) == ("PENDING", 0, None)
    async with database.sessions() as session:
        why = await explain(
            session, waiting, now=datetime.now(UTC), alive_seconds=30, max_lost_leases=5
        )
    assert why.waiting_for is Waiting.BREAKER
    assert f"127.0.0.1:{port} keeps failing" in summary(why)


@pytest.mark.whole
async def test_one_request_tries_a_target_and_its_answer_lets_all_others_go(
    database: Database, process: StartProcess
) -> None:
    works = asyncio.Event()

    def say(_got: Got) -> bytes:
        return answer(200 if works.is_set() else 503)

    options = {
        "target_breaker_failures": 3,
        "target_breaker_seconds": 0.5,
        "target_breaker_max_seconds": 1,
        "backoff_base_seconds": 0.01,
        "default_max_retries": 1000,
        "target_max_running": 5,
    }
    async with running(say) as target, process(**options):
        ids = await put_requests(database, *({"url": target.url} for _ in range(40)))
        name = f"127.0.0.1:{target.port}"

        async def tried_in_vain() -> bool:
            async with database.sessions() as session:
                found = await repository.find(session, name)
            return found is not None and found.openings >= 2

        await eventually(tried_in_vain)
        attempts = sum(job.attempts for job in await read_all(database, ids))
        # While it is open only probes are sent: the first failures, with those on their way, and one each time.
        assert attempts <= 3 + 5 + 8
        works.set()

        async def delivered() -> bool:
            return {job.status for job in await read_all(database, ids)} == {"SUCCESS"}

        await eventually(delivered)
        async with database.sessions() as session:
            found = await repository.find(session, name)
    assert found is not None
    assert (found.state, found.openings, found.held) == ("closed", 0, 0)


async def test_a_breaker_that_one_process_opens_is_open_in_all_and_one_request_probes(
    database: Database, settings: Settings
) -> None:
    async with database.sessions.begin() as session:
        await repository.open_breaker(session, NAME, error="broke off", pause=0.001, longest=1)
        assert NAME in await repository.open_breakers(session)
    await asyncio.sleep(0.01)

    async def probe() -> bool:
        async with database.sessions.begin() as session:
            return await repository.take_probe(session, NAME, seconds=30)

    assert sorted(await asyncio.gather(probe(), probe(), probe())) == [False, False, True]
    async with database.sessions.begin() as session:
        pauses = []
        for _ in range(4):
            await session.execute(text("UPDATE targets SET retry_at = now() - interval '1 s'"))
            pauses.append(
                await repository.open_breaker(session, NAME, error="again", pause=10, longest=60)
            )
    for pause, expected in zip(pauses, (20, 40, 60, 60), strict=True):
        assert 0.89 * expected <= pause <= 1.11 * expected


async def test_a_reset_lets_go_what_is_held_and_is_audited(
    client: httpx.AsyncClient, auth: Auth, database: Database, settings: Settings
) -> None:
    admin = auth("admin")
    (job_id,) = await put_requests(
        database, {"url": "https://crm.example.com/"}, delay_seconds=3600
    )
    async with database.sessions.begin() as session:
        await session.execute(
            text("UPDATE jobs_live SET lease_token = 5 WHERE id = :id"), {"id": job_id}
        )
        await repository.open_breaker(session, NAME, error="broke off", pause=60, longest=60)
        assert await store.breakers.hold(
            partial(fetch, session),
            [((job_id, 5), f"breaker:{NAME}")],  # type: ignore[list-item]
        ) == {job_id}
    listed = (await client.get("/targets?state=open", headers=admin)).json()
    (shown,) = listed["targets"]
    assert (shown["name"], shown["state"], shown["held"]) == (NAME, "open", 1)
    said = (await client.get(f"/jobs/{job_id}/explain", headers=admin)).json()
    assert said["waiting_for"] == "breaker"
    assert said["detail"]["breaker"]["last_error"] == "broke off"

    reset = await client.post(
        f"/targets/{NAME}/reset", headers=admin, json={"reason": "it is back"}
    )
    assert (reset.status_code, reset.json()["state"]) == (200, "closed")
    entry = (await client.get("/admin/audit?limit=1", headers=admin)).json()["entries"][0]
    assert (entry["action"], entry["subject_id"], entry["reason"]) == (
        "target.reset", NAME, "it is back",
    )  # fmt: skip
    again = await client.post(f"/targets/{NAME}/reset", headers=admin)
    assert again.status_code == 409
    assert (await client.post("/targets/x:1/reset", headers=admin)).status_code == 404
    await Tending(database, Breakers(database, settings)).round()
    (job,) = await read_all(database, [JobId(job_id)])
    assert (job.held_for, job.status) == (None, "PENDING")
    assert job.next_run_at <= datetime.now(UTC)


async def test_the_jobs_of_every_closed_target_are_let_go_however_many_targets_fail(
    database: Database, settings: Settings
) -> None:
    """A round that looks at two breakers comes to the third in the next one."""
    names = ["a.example.com:443", "b.example.com:443", "c.example.com:443"]
    for name in names:
        (job_id,) = await put_requests(database, {"url": f"https://{name}/"})
        async with database.sessions.begin() as session:
            if name != names[2]:
                await repository.open_breaker(
                    session, name, error="broke off", pause=60, longest=60
                )
            await session.execute(
                text("UPDATE finmind_jobs.jobs_live SET held_for = :hold, held_since = now(),"
                     " held_due_at = now(), next_run_at = 'infinity' WHERE id = :id"),
                {"hold": f"breaker:{name}", "id": job_id},
            )  # fmt: skip
    tending = Tending(database, Breakers(database, settings), max_holds=2)
    await tending.round()
    assert (await read_all(database, [job_id]))[0].held_for == f"breaker:{names[2]}"
    await tending.round()
    assert (await read_all(database, [job_id]))[0].held_for is None


async def test_a_target_is_forgotten_a_week_after_its_last_use_also_with_an_open_breaker(
    database: Database,
) -> None:
    async with database.sessions.begin() as session:
        for name in ("old:443", "new:443"):
            await repository.open_breaker(session, name, error="broke off", pause=60, longest=60)
        await session.execute(
            text(
                "UPDATE finmind_jobs.targets SET used_at = now() - interval '8 days' WHERE name = 'old:443'"
            )
        )
        assert await repository.drop_unused(session) == 1
        assert list(await repository.open_breakers(session)) == ["new:443"]


async def test_the_more_jobs_wait_for_a_target_that_has_not_answered_the_later_each_looks_again(
    database: Database, settings: Settings
) -> None:
    """A hundred a second, and each within half a minute."""
    breakers, nobody = Breakers(database, settings), cast("JobContext", None)
    ask = partial(
        breakers.request, parse_url("https://a.example.com/").destination, nobody, timeout_seconds=1
    )
    waits = []
    async with AsyncExitStack() as stack:
        for _ in range(settings.target_breaker_failures):
            await stack.enter_async_context(ask())
        for _ in range(5_000):
            with pytest.raises(Snooze) as put_off:
                await ask().__aenter__()
            waits.append(put_off.value.seconds)
    assert max(waits[:40]) < 2
    assert 5 < waits[1_000] < 12
    assert waits[-1] == pytest.approx(30, abs=1)
