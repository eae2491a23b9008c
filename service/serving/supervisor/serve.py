"""Runs a supervisor and its workers until a signal, as `worker --processes` does."""

import asyncio
import socket
from collections.abc import Callable, Mapping

from service.serving.process import Signals, run_until_signal
from service.serving.server import Server, server_config
from service.serving.supervisor.app import create_app
from service.serving.supervisor.fleet import WRONG_CONFIGURATION, Fleet
from service.serving.supervisor.pipe import LAST_WORDS_SECONDS
from service.serving.supervisor.questions import Questions
from service.settings import Settings


def run_supervisor(
    settings: Settings,
    *,
    count: int,
    environment: Mapping[str, str],
    listener: socket.socket,
    on_ready: Callable[[], None],
) -> int:
    """Keep `count` workers running, with health and metrics on `listener`; the exit code.

    0 after a drain, 2 where the workers refuse their configuration.
    """
    refused = False

    async def run(signals: Signals) -> None:
        nonlocal refused
        kill_after = settings.shutdown_grace_seconds + LAST_WORDS_SECONDS
        fleet = Fleet(count, environment, kill_after_seconds=kill_after)
        questions = Questions(fleet)
        app = create_app(questions, metrics_public=settings.metrics_public)
        server = Server(server_config(app, settings), on_ready=on_ready)
        signals.on_first(fleet.stop)
        fleet.start()
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="supervisor-http")
        waits = [
            asyncio.create_task(signals.stopping.wait(), name="supervisor-signal"),
            asyncio.create_task(fleet.refused.wait(), name="supervisor-refused"),
        ]
        try:
            await asyncio.wait({*waits, serving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Until all have ended health and metrics are answered.
            await fleet.stopped()
        refused = fleet.refused.is_set()
        server.should_exit = True
        await serving
        await questions.close()
        for wait in waits:
            wait.cancel()

    code = run_until_signal(run)
    return WRONG_CONFIGURATION if refused else code
