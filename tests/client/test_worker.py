"""Workers of the kit against a real service over HTTP."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from pydantic import SecretStr

from finmind_client import AsyncClient, JobEvent, NewJob, NotAuthenticated
from finmind_client.calls import Call
from finmind_client.worker import Worker
from service.settings import Settings
from tests.client import kit_handlers
from tests.dashboard.served import Served, serving
from tests.jobs.waiting import until
from tests.running import ROOT

pytestmark = pytest.mark.whole

END_LEASES = "UPDATE finmind_jobs.jobs_live SET lease_until = now() - interval '1 second'"

Begin = Callable[..., Worker]


@pytest.fixture
def settings(make_settings: Callable[..., Settings], pg_dsn: str) -> Settings:
    return make_settings(
        database_url=SecretStr(pg_dsn),
        default_max_retries=3,
        backoff_base_seconds=0.01,
        backoff_jitter=0,
        poll_max_seconds=0.1,
        heartbeat_seconds=0.25,
        sweep_seconds=0.5,
        cancel_grace_seconds=1,
    )


@pytest.fixture
async def served(settings: Settings) -> AsyncIterator[Served]:
    async with serving(settings, worker=False) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(served.url, token=served.token("admin")) as client:
        yield client


@asynccontextmanager
async def working(served: Served, **options: Any) -> AsyncIterator[Worker]:
    """A worker in threads of this process, stopped at the end."""
    worker = Worker(served.url, token=served.token("admin"), **options)
    kit_handlers.register(worker).start()
    try:
        yield worker
    finally:
        worker.stop()
        assert await asyncio.to_thread(worker.wait, 30)


async def noted(path: Path, words: str, count: int = 1) -> list[str]:
    """The lines that handlers have noted of one event, once there are so many."""

    def read() -> list[str]:
        return path.read_text().splitlines() if path.exists() else []

    async def enough() -> list[str]:
        lines = await asyncio.to_thread(read)
        found = [line for line in lines if line.startswith(words)]
        return found if len(found) >= count else []

    return await until(enough)


async def test_handlers_run_in_threads_on_a_loop_and_in_processes_and_their_ends_decide(
    served: Served, client: AsyncClient, tmp_path: Path
) -> None:
    expected = {
        "error": ("SUCCESS", 2),
        "permanent": ("FAILED", 1),
        "retry": ("SUCCESS", 2),
        "snooze": ("SUCCESS", 1),
        "exit": ("SUCCESS", 2),
        "object": ("FAILED", 1),
        "large": ("FAILED", 1),
        "refused": ("FAILED", 1),
    }
    kinds = ("plain", "coroutine", "process", "process_coroutine")
    async with working(served, concurrency=2):
        jobs = {kind: await client.enqueue(kind, {"number": 7}) for kind in kinds}
        odd = {
            (kind, how): await client.enqueue(
                kind, {"how": how, "path": f"{tmp_path}/{kind}.{how}"}
            )
            for kind in ("odd", "odd_coroutine")
            for how in expected
        }
        died = await client.enqueue("killed_process", {"number": 1})
        ended = {kind: await client.wait(one.id, timeout_seconds=60) for kind, one in jobs.items()}
        odd = {key: await client.wait(one.id, timeout_seconds=60) for key, one in odd.items()}
        died = await client.wait(died.id, timeout_seconds=60)
    assert ended["plain"].result == {"thread": 7}
    assert ended["coroutine"].result == {"loop": 7, "token": True}
    pids = {ended[kind].result["process"] for kind in ("process", "process_coroutine")}
    assert os.getpid() not in pids
    assert not any(map(_lives, pids))
    for kind, lines in {
        "coroutine": [("info", "begins"), ("warning", "ends")],
        "process": [("info", "in a process")],
    }.items():
        logged = await client.send(_logs(ended[kind].id))
        assert [(line["level"], line["message"]) for line in logged] == lines
    assert {key: (job.status, job.attempts) for key, job in odd.items()} == {
        key: expected[key[1]] for key in odd
    }
    errors = {how: str(job.last_error) for (kind, how), job in odd.items() if kind == "odd"}
    assert "no such invoice" in errors["permanent"]
    assert "5000002 bytes" in errors["large"]
    assert "type object cannot be stored" in errors["object"]
    assert (died.status, died.attempts) == ("SUCCESS", 2)
    assert "exit code 7" in str(await client.send(_errors(died.id)))


async def test_a_cancel_and_a_timeout_stop_handlers_of_every_kind(
    served: Served, client: AsyncClient, tmp_path: Path
) -> None:
    path = tmp_path / "notes"
    async with working(served):
        stops = ("waits", "waits_coroutine", "waits_process")
        jobs = [await client.enqueue(kind, {"path": str(path)}) for kind in stops]
        late = await client.enqueue(
            "waits", {"path": str(tmp_path / "late")}, timeout_seconds=0.3, max_retries=0
        )
        ignores = await client.enqueue("spins", {"path": str(tmp_path / "spins")})
        await noted(path, "start", 3)

        async def told() -> bool:
            shown = [(await client.get(job.id)).progress for job in jobs]
            return shown == [{"fraction": 0.5, "message": "half"}] * 3

        await until(told)
        (line,) = await noted(tmp_path / "spins", "start")
        for job in [*jobs, ignores]:
            await client.cancel(job.id)
        ended = [await client.wait(job.id, timeout_seconds=60) for job in [*jobs, ignores]]
        assert [job.status for job in ended] == ["CANCELLED"] * 4
        assert (await client.admin.job(ignores.id))["cancel"]["how"] == "ignored"
        assert await noted(path, "stop", 3) == ["stop cancel"] * 3
        ended = [await client.wait(late.id, timeout_seconds=60)]
        assert ended[0].status == "DEAD_LETTER"
        assert "HandlerTimeout" in str(ended[0].last_error)
        assert await noted(tmp_path / "late", "stop") == ["stop timed_out"]
        # What looked at nothing is killed, with what it had started.
        pids = [int(pid) for pid in line.split()[1:]]

        async def gone() -> bool:
            return not any(map(_lives, pids))

        await until(gone)


async def test_a_drained_worker_ends_its_jobs_and_a_stopped_one_gives_back_what_is_left(
    served: Served, client: AsyncClient, tmp_path: Path
) -> None:
    path = tmp_path / "notes"
    async with working(served, concurrency=3, name="mailer:1") as worker:
        waits = [await client.enqueue(kind, {"path": str(path)}) for kind in ("waits", "spins")]
        await noted(path, "start", 2)
        for _ in range(2):  # as a second signal does
            worker.stop()
        assert await asyncio.to_thread(worker.wait, 30)
        for job in waits:
            found = await client.get(job.id)
            assert (found.status, found.attempts) == ("PENDING", 0), found.last_error
    await client.cancel(waits.pop().id)
    async with working(served, concurrency=3, name="mailer:2") as worker:
        await noted(path, "start", 3)
        workers = (await client.send(_workers()))["workers"]
        assert {one["name"]: one["status"] for one in workers} == {
            "mailer:1": "stopped",
            "mailer:2": "live",
        }
        ids = [one["id"] for one in workers if one["name"] == "mailer:2"]
        await client.send(_drain(ids[0]))
        for job in waits:
            await client.cancel(job.id)
        assert await asyncio.to_thread(worker.wait, 30)


class Balancer(httpx.AsyncBaseTransport):
    """Sends each request to the next of several processes."""

    def __init__(self, *urls: str) -> None:
        self._urls = cycle([httpx.URL(url) for url in urls])
        self._transport = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = next(self._urls)
        request.url = request.url.copy_with(host=url.host, port=url.port)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


async def test_calls_may_go_to_any_of_three_processes(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with AsyncExitStack() as stack:
        three = [await stack.enter_async_context(serving(settings, worker=False)) for _ in range(3)]
        balancer = Balancer(*(one.url for one in three))
        token = three[0].token("admin")
        client = await stack.enter_async_context(AsyncClient(three[1].url, token=token))
        await stack.enter_async_context(working(three[0], concurrency=4, transport=balancer))
        jobs = [NewJob("waits", {"path": str(path), "seconds": 0}) for _ in range(12)]
        made = await client.enqueue_batch(jobs)
        ends = [await client.wait(job_id, timeout_seconds=60) for job_id in made.ids]
        assert {(job.status, job.attempts) for job in ends} == {("SUCCESS", 1)}
        assert len(await noted(path, "start")) == 12


async def test_a_worker_whose_key_is_refused_says_so(served: Served) -> None:
    refused = Worker(served.url, token="nonsense")
    kit_handlers.register(refused)
    with pytest.raises(NotAuthenticated):
        await asyncio.to_thread(refused.run)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Begins workers in processes of their own."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(served: Served, *command: str) -> "subprocess.Popen[bytes]":
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "FINMIND_URL": served.url,
            "FINMIND_KEY": served.token("admin"),
        }
        arguments = [sys.executable, *(command or ("-m", "tests.client.kit_handlers"))]
        with (tmp_path / "workers.log").open("ab") as log:
            begun.append(subprocess.Popen(arguments, env=environment, stdout=log, stderr=log))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait(timeout=10)


async def test_the_example_of_a_worker_runs(
    served: Served, client: AsyncClient, begin: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    worker = begin(served, str(ROOT / "examples" / "workers" / "kit.py"))
    payloads: dict[str, dict[str, Any]] = {
        "example_hello": {"name": "Ada"},
        "example_slow": {"seconds": 0},
        "example_primes": {"below": 100},
    }
    jobs = [await client.enqueue(kind, payload) for kind, payload in payloads.items()]
    ended = [await client.wait(job.id, timeout_seconds=60) for job in jobs]
    worker.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.wait, 30) == 0
    assert [job.result for job in ended] == [{"greeting": "Hello, Ada", "attempt": 1}, "done", 25]


async def test_a_worker_survives_a_restart_of_the_service_and_its_own_kill_loses_no_job(
    settings: Settings, tmp_path: Path, begin: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    path = tmp_path / "notes"
    async with serving(settings, worker=False) as served:
        port = int(served.url.rpartition(":")[2])
        async with AsyncClient(served.url, token=served.token("admin")) as client:
            first = begin(served)
            killed = await client.enqueue("waits_process", {"path": str(path), "seconds": 60})
            (line,) = await noted(path, "start")
            first.kill()
            first.wait(timeout=10)
            # What it ran in a process of its own ends with it.
            pid = int(line.split()[2])

            async def gone() -> bool:
                return not _lives(pid)

            await until(gone)
            async with served.database.engine.begin() as connection:
                await connection.exec_driver_sql(
                    END_LEASES + f', payload = \'{{"path": "{path}", "seconds": 0}}\''
                )
            second = begin(served)
            again = await client.wait(killed.id, timeout_seconds=60)
            assert (again.status, again.attempts, again.result) == ("SUCCESS", 2, "done")
            kept = await client.enqueue("waits", {"path": str(path), "seconds": 0.3})
            followed = asyncio.create_task(_events(served, kept.id))
            await noted(path, "start", 3)
    async with (
        serving(settings, worker=False, port=port) as served,
        AsyncClient(served.url, token=served.token("admin")) as client,
    ):
        found = await client.wait(kept.id, timeout_seconds=60)
        assert (found.status, found.attempts) == ("SUCCESS", 1)
        # A stop in good order: it waits for the job that it has, and its exit code says so.
        last = await client.enqueue("waits", {"path": str(path), "seconds": 0.3})
        await noted(path, "start", 4)
        second.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(second.wait, 30) == 0
        found = await client.get(last.id)
        assert (found.status, found.attempts) == ("SUCCESS", 1)
        # Who follows the job is connected to the new process, and misses nothing.
        async with asyncio.timeout(60):
            events = await followed
        lines = [event.data["message"] for event in events if event.kind == "log"]
        assert lines == ["waits", "is done"]
        assert (events[-1].kind, events[-1].data["status"]) == ("end", "SUCCESS")


async def _events(served: Served, job_id: int) -> list[JobEvent]:
    async with AsyncClient(served.url, token=served.token("admin")) as client:
        return [event async for event in client.events(job_id)]


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _logs(job_id: int) -> Call[Any]:
    return Call("GET", f"/admin/jobs/{job_id}/logs", lambda answer: answer.json()["lines"])


def _errors(job_id: int) -> Call[Any]:
    return Call("GET", f"/admin/jobs/{job_id}", lambda answer: answer.json()["errors"])


def _workers() -> Call[Any]:
    return Call("GET", "/admin/workers", lambda answer: answer.json())


def _drain(worker_id: int) -> Call[Any]:
    return Call("POST", f"/admin/workers/{worker_id}/drain", lambda answer: answer.json())
