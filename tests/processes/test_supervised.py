"""What a supervisor does with its processes, played by small programs that know the pipe alone."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from prometheus_client import REGISTRY

from service.serving.supervisor.app import create_app
from service.serving.supervisor.fleet import Fleet
from service.serving.supervisor.questions import Questions
from tests.processes.fleet import until

PROGRAM = """
import os, sys
fd = int(sys.argv[-1])
if "refuse" in sys.argv: sys.exit(2)
port = 9  # where nothing listens
if "mute" in sys.argv:
    import socket
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
if "serve" in sys.argv:
    import http.server, threading
    class Metrics(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            allowed = self.path != "/metrics" or self.headers["X-API-Key"] == "key"
            self.send_response(200 if allowed else 401)
            self.send_header("WWW-Authenticate", "Bearer")
            self.end_headers()
            self.wfile.write(b"up 1.0\\n")
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_port
os.write(fd, b'{"port": %d}\\n' % port)
if "deaf" in sys.argv: import time; time.sleep(60)
told = os.read(fd, 1)
sys.exit(0 if told == b"s" else 3)
"""
StartFleet = Callable[..., Awaitable[Fleet]]


def restarts(number: int) -> float:
    labels = {"worker": str(number)}
    return REGISTRY.get_sample_value("finmind_worker_process_restarts_total", labels) or 0.0


async def all_listen(fleet: Fleet, *, besides: int = 0) -> list[int]:
    async def listen() -> list[int]:
        running = fleet.running().values()
        pids = [one.pid for one in running if one.port is not None and one.pid != besides]
        return pids if len(pids) == fleet.count else []

    return await until(listen, 20, what="processes that listen")


@pytest.fixture
async def start_fleet() -> AsyncIterator[StartFleet]:
    started: list[Fleet] = []

    async def start(how: str = "", *, kill_after_seconds: float = 20.0) -> Fleet:
        command = (sys.executable, "-S", "-E", "-c", PROGRAM, how)
        fleet = Fleet(2, os.environ, kill_after_seconds=kill_after_seconds, command=command)
        fleet.start()
        started.append(fleet)
        return fleet

    yield start
    for fleet in started:
        await fleet.stopped()


async def test_a_process_that_dies_is_started_again_and_the_others_run_on(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet()
    pids, before = await all_listen(fleet), restarts(0)
    first = fleet.running()[0].pid
    os.kill(first, signal.SIGKILL)
    now = await all_listen(fleet, besides=first)
    assert restarts(0) == before + 1
    assert (set(pids) - {first}) < set(now)
    processes = list(fleet.running().values())
    await fleet.stopped()
    assert [one.exit_code for one in processes] == [0, 0], "each was told to stop"
    assert not fleet.running()


async def test_processes_that_do_not_stop_are_killed(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("deaf", kill_after_seconds=0.1)
    await all_listen(fleet)
    processes = list(fleet.running().values())
    await fleet.stopped()
    assert [one.exit_code for one in processes] == [-signal.SIGKILL] * 2


async def test_a_wait_for_the_end_that_is_cut_short_leaves_no_process(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("deaf")
    await all_listen(fleet)
    processes = list(fleet.running().values())
    stopping = asyncio.create_task(fleet.stopped())
    await asyncio.sleep(0)
    stopping.cancel()  # by a second signal
    with pytest.raises(asyncio.CancelledError):
        await stopping
    await asyncio.gather(*(process.ended() for process in processes))


async def test_a_configuration_that_is_refused_at_the_start_is_not_tried_again(
    start_fleet: StartFleet,
) -> None:
    fleet = await start_fleet("refuse")
    async with asyncio.timeout(20):
        await fleet.refused.wait()


async def test_a_process_that_does_not_answer_is_not_alive_and_one_that_stops_is(
    start_fleet: StartFleet,
) -> None:
    mute, stopping = await start_fleet("mute"), await start_fleet()
    for fleet, lifeless in ((mute, [0, 1]), (stopping, [])):
        await all_listen(fleet)
        questions = Questions(fleet)
        assert await questions.lifeless() == lifeless
        await questions.close()


async def test_a_supervisor_is_ready_when_all_of_its_workers_are(start_fleet: StartFleet) -> None:
    for how, ready in (("serve", True), ("", False)):
        fleet = await start_fleet(how)
        await all_listen(fleet)
        questions = Questions(fleet)
        state = await questions.readiness()
        assert (state.ready, [one["name"] for one in state.checks]) == (
            ready,
            ["worker 0", "worker 1"],
        )
        await questions.close()


async def test_the_workers_decide_who_reads_metrics(start_fleet: StartFleet) -> None:
    fleet = await start_fleet("serve")
    await all_listen(fleet)
    questions = Questions(fleet)
    assert await questions.lifeless() == []
    transport = httpx.ASGITransport(create_app(questions, metrics_public=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://supervisor") as client:
        refused = await client.get("/metrics")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        answer = await client.get("/metrics", headers={"X-API-Key": "key"})
    await questions.close()
    assert answer.text.startswith('up{process="0"} 1.0\nup{process="1"} 1.0\n')
    assert 'finmind_worker_processes{process="supervisor"} 2.0' in answer.text
