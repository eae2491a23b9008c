"""What one caller may use, counted over several processes on one database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.auth.live_jobs_index import ensure_live_jobs_index
from service.auth.principal import ROLE_PERMISSIONS, Principal, Role
from service.auth.quotas import Quotas
from service.db.engine import Database
from service.errors import ConfigurationError
from service.settings import Settings
from tests import databases
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem
from tests.jobs.proxy import Proxy

PROCESSES = 3


@pytest.fixture
def api_settings(
    make_settings: Callable[..., Settings], pg_dsn: str, request: pytest.FixtureRequest
) -> Settings:
    return make_settings(database_url=SecretStr(pg_dsn), **request.param)


@pytest.fixture
async def processes(api_settings: Settings) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients of several services on one database, each as a process of its own would be."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(PROCESSES):
            app = create_app(api_settings, run_worker=False)
            await stack.enter_async_context(app.router.lifespan_context(app))
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://service.test")
            clients.append(await stack.enter_async_context(client))
        yield clients


def refused(answers: list[httpx.Response], word: str) -> int:
    """How many were, each in words and with the time to wait."""
    refusals = [answer for answer in answers if answer.status_code == 429]
    for answer in refusals:
        assert word in assert_problem(answer, 429)["detail"]
        assert int(answer.headers["retry-after"]) > 0
    return len(refusals)


def limits(**values: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("api_settings", [values], indirect=True)


async def until_early_in(pg_dsn: str, seconds: int, at_most: int) -> None:
    """A window that ends in the middle of a test would begin another."""
    connection = await databases.connect(pg_dsn)
    gone = f"SELECT floor(extract(epoch FROM now()))::bigint % {seconds}"  # a cast rounds up
    while await connection.fetchval(gone) > at_most:  # noqa: ASYNC110 - it is the server's clock
        await asyncio.sleep(0.5)
    await connection.close()


# -- requests -------------------------------------------------------------------------------------


@pytest.mark.whole
@limits(user_requests_per_minute=60)
async def test_a_users_requests_of_a_minute_are_bounded_over_all_processes(
    processes: list[httpx.AsyncClient], auth: Auth, pg_dsn: str
) -> None:
    await until_early_in(pg_dsn, 60, 30)  # 120 requests take a while where others run beside
    ann, bob, service = auth("user", "ann"), auth("user", "bob"), auth("service", "cat")
    answers = await asyncio.gather(
        *(processes[n % PROCESSES].get("/reminders", headers=ann) for n in range(120))
    )
    assert {answer.status_code for answer in answers} == {200, 429}
    assert 120 - refused(answers, "USER_REQUESTS_PER_MINUTE") in (59, 60)
    for client in processes:
        assert refused([await client.get("/reminders", headers=ann)], "60 requests") == 1
        assert (await client.get("/reminders", headers=bob)).status_code == 200
        for _ in range(30):
            assert (await client.get("/jobs/1", headers=service)).status_code == 404


@limits(caller_requests_per_minute=20)
async def test_every_other_caller_may_be_bounded_too(
    processes: list[httpx.AsyncClient], auth: Auth, pg_dsn: str
) -> None:
    await until_early_in(pg_dsn, 60, 45)
    answers = await asyncio.gather(
        *(processes[n % PROCESSES].get("/jobs/1", headers=auth("service")) for n in range(40))
    )
    assert refused(answers, "CALLER_REQUESTS_PER_MINUTE") == 20


# -- live jobs ------------------------------------------------------------------------------------


@pytest.mark.whole
@limits(caller_live_jobs=30)
async def test_a_callers_live_jobs_are_bounded_over_all_processes(
    processes: list[httpx.AsyncClient], auth: Auth, pg_dsn: str
) -> None:
    ann = auth("service", "ann")
    answers: list[httpx.Response] = []
    for _ in range(40):
        answers += await asyncio.gather(
            *(client.post("/jobs", json={"job_type": "m"}, headers=ann) for client in processes)
        )
    made = len(answers) - refused(answers, "CALLER_LIVE_JOBS")
    # Each process grants an eighth of what is left before it counts again.
    assert 30 <= made <= 30 + (PROCESSES - 1) * (30 // 8)
    batch = {"jobs": [{"job_type": "m"}] * 31}
    bob = auth("service", "bob")
    assert refused([await processes[0].post("/jobs/batch", json=batch, headers=bob)], "31 more")
    other = await processes[0].post("/jobs", json={"job_type": "m"}, headers=bob)
    assert other.status_code == 201
    # What has ended is no longer live.
    await databases.execute(pg_dsn, "DELETE FROM finmind_jobs.jobs_live WHERE enqueued_by = 'ann'")
    again = await processes[1].post("/jobs", json={"job_type": "m"}, headers=ann)
    assert again.status_code == 201


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.whole
@limits(caller_new_names_per_hour=20)
async def test_new_queues_and_types_of_a_caller_are_bounded_over_all_processes(
    processes: list[httpx.AsyncClient], auth: Auth, pg_dsn: str
) -> None:
    await until_early_in(pg_dsn, 3600, 3540)
    ann, bob = auth("service", "ann"), auth("service", "bob")

    async def enqueue(number: int, headers: dict[str, str], **job: Any) -> httpx.Response:
        body = {"job_type": "m"} | job
        return await processes[number % PROCESSES].post("/jobs", json=body, headers=headers)

    assert (await enqueue(0, ann)).status_code == 201  # one new name, known from now on
    answers = await asyncio.gather(*(enqueue(n, ann, queue=f"q-{n}") for n in range(60)))
    assert 60 - refused(answers, "CALLER_NEW_NAMES_PER_HOUR") == 19
    used = {answer.json()["queue"] for answer in answers if answer.status_code == 201}
    for number in range(PROCESSES):
        assert refused([await enqueue(number, ann, job_type=f"t-{number}")], "20 new names") == 1
        for queue in (*used, "default"):
            assert (await enqueue(number, ann, queue=queue)).status_code == 201
        assert (await enqueue(number, bob, queue=f"b-{number}")).status_code == 201
    batch = {"jobs": [{"job_type": "m", "queue": f"c-{n}"} for n in range(21)]}
    answer = await processes[0].post("/jobs/batch", json=batch, headers=auth("service", "cat"))
    assert refused([answer], "new names") == 1


@limits(caller_new_names_per_hour=1, caller_live_jobs=1)
async def test_what_a_batch_will_enqueue_counts_against_quotas_when_it_is_made(
    processes: list[httpx.AsyncClient], auth: Auth, pg_dsn: str
) -> None:
    await until_early_in(pg_dsn, 3600, 3540)
    ann, client = auth("service", "ann"), processes[0]

    async def make(**jobs: Any) -> httpx.Response:
        return await client.post("/batches", json={"name": "b"} | jobs, headers=ann)

    assert refused([await make(on_failure={"job_type": "m", "queue": "new"})], "new names") == 1
    two = {"on_failure": {"job_type": "m"}, "on_complete": {"job_type": "m"}}
    assert refused([await make(**two)], "2 more") == 1
    assert (await make(on_complete={"job_type": "m"})).status_code == 201


@limits(caller_new_names_per_hour=1)
async def test_a_name_that_a_worker_serves_is_not_new(
    processes: list[httpx.AsyncClient], auth: Auth, pg_dsn: str
) -> None:
    await databases.execute(
        pg_dsn,
        "INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency)"
        " VALUES ('w', '{*,mails:5}', '{mail,sms,fax}', 1)",
    )
    for job_type in ("mail", "sms", "fax"):
        job = {"job_type": job_type, "queue": "mails"}
        answer = await processes[0].post("/jobs", json=job, headers=auth("service"))
        assert answer.status_code == 201


# -- reminders ------------------------------------------------------------------------------------


@pytest.mark.whole
@limits(user_reminders_per_day=10)
async def test_a_users_reminders_of_a_day_are_bounded_over_all_processes(
    processes: list[httpx.AsyncClient], auth: Auth, pg_dsn: str
) -> None:
    await until_early_in(pg_dsn, 86_400, 86_340)

    async def remind(number: int, headers: dict[str, str]) -> httpx.Response:
        body = {
            "message": "Pay",
            "send_at": "2100-01-01T00:00:00Z",
            "channel": "email",
            "recipient": f"ada+{number}@example.org",
        }
        return await processes[number % PROCESSES].post("/reminders", json=body, headers=headers)

    ann = auth("user", "ann")
    answers = await asyncio.gather(*(remind(n, ann) for n in range(30)))
    assert refused(answers, "USER_REMINDERS_PER_DAY") == 20
    made = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    # One that is deleted was made all the same.
    gone = await processes[0].delete(f"/reminders/{made[0]}", headers=ann)
    assert gone.status_code == 204
    assert refused([await remind(1, ann)], "10 reminders") == 1
    for number in range(15):
        assert (await remind(number, auth("admin", "ann"))).status_code == 201
    assert (await remind(0, auth("user", "bob"))).status_code == 201


@limits(user_reminders_per_day=3)
async def test_a_failed_reminder_that_is_changed_counts_once_more(
    processes: list[httpx.AsyncClient], auth: Auth, pg_dsn: str
) -> None:
    await until_early_in(pg_dsn, 86_400, 86_340)
    body = {"message": "Pay", "send_at": "2100-01-01T00:00:00Z", "channel": "email"}
    ann = auth("user", "ann")
    made = await processes[0].post(
        "/reminders", json=body | {"recipient": "a@b.example"}, headers=ann
    )
    path = f"/reminders/{made.json()['id']}"
    statuses = []
    for number in range(4):
        waiting = await processes[1].patch(path, json={"message": f"Pay {number}"}, headers=ann)
        assert waiting.status_code == 200
        await databases.execute(
            pg_dsn, "UPDATE finmind_jobs.reminders SET status = 'failed', attempts = 1"
        )
        change = {"recipient": f"{number}@b.example"}
        changed = await processes[2].patch(path, json=change, headers=ann)
        statuses.append(changed.status_code)
        await databases.execute(
            pg_dsn, "UPDATE finmind_jobs.reminders SET status = 'scheduled', attempts = 0"
        )
    assert statuses == [200, 200, 429, 429]


@limits(user_reminders_per_day=1)
async def test_a_reminder_that_is_refused_costs_nothing(
    processes: list[httpx.AsyncClient], auth: Auth
) -> None:
    body = {"message": "Pay", "send_at": "2100-01-01T00:00:00Z", "channel": "email"}
    ann = auth("user", "ann")
    for recipient, status in (("no address", 422), ("a@example.org", 201), ("b@example.org", 429)):
        answer = await processes[0].post(
            "/reminders", json=body | {"recipient": recipient}, headers=ann
        )
        assert answer.status_code == status


async def test_the_index_of_live_jobs_is_there_only_where_a_quota_needs_it(
    make_settings: Callable[..., Settings], database: Database
) -> None:
    async def is_there() -> bool:
        async with database.engine.connect() as connection:
            found = await connection.scalar(text("SELECT to_regclass('jobs_live_enqueued_by')"))
            return found is not None

    await ensure_live_jobs_index(database, make_settings())
    assert not await is_there()
    wanted = make_settings(caller_live_jobs=5, auto_migrate=False)
    with pytest.raises(ConfigurationError, match="CREATE INDEX CONCURRENTLY"):
        await ensure_live_jobs_index(database, wanted)
    three = [make_settings(caller_live_jobs=5) for _ in range(3)]
    await asyncio.gather(*(ensure_live_jobs_index(database, one) for one in three))
    assert await is_there()
    await ensure_live_jobs_index(database, wanted)


@pytest.mark.whole
async def test_a_database_that_hangs_holds_up_nobody_behind_another(
    pg_dsn: str, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(query_timeout_seconds=1.0, user_requests_per_minute=60)
    proxy = Proxy(pg_dsn)
    await proxy.start()
    database = Database(proxy.dsn, settings)
    quotas = Quotas(database, settings)
    callers = [
        Principal(
            subject=f"user-{number}",
            role=Role.USER,
            permissions=ROLE_PERMISSIONS[Role.USER],
            kind="token",
        )
        for number in range(10)
    ]
    await quotas.spend_request(callers[0])
    proxy.stall()
    try:
        async with asyncio.timeout(5):  # one after another they would take ten seconds
            await asyncio.gather(*(quotas.spend_request(caller) for caller in callers))
    finally:
        proxy.flow()
        await quotas.close()
        await database.close()
        await proxy.close()
