"""`serve` and `worker`: the commands that run until a signal ends them."""

import argparse
import contextlib
import logging
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.banner import announce
from service.cli.command import Command, number
from service.cli.database import database_dsn
from service.settings import Settings

if TYPE_CHECKING:
    from service.serving.supervisor.pipe import SupervisorPipe


def _add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-worker", action="store_true", help="serve HTTP alone")
    parser.add_argument("--host", help="address to listen on, over HOST")
    parser.add_argument("--port", type=number(0, 65535, int), help="port, over PORT")


def _add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on, over HOST")
    parser.add_argument(
        "--port", dest="worker_port", type=number(0, 65535, int), help="port, over WORKER_PORT"
    )
    parser.add_argument(
        "--processes",
        type=number(1, 100, int),
        default=1,
        help="worker processes under one supervisor, which starts those again that die",
    )
    # How a supervisor starts its workers: the descriptor of their pipe.
    parser.add_argument("--supervised", type=int, help=argparse.SUPPRESS)


def _serve(settings: Settings, arguments: argparse.Namespace) -> int:
    return _run(settings, port=settings.port, run_worker=not arguments.no_worker)


def _work(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.processes > 1:
        return _supervise(settings, arguments.processes)
    supervisor = None
    if arguments.supervised is not None:
        from service.serving.supervisor.pipe import SupervisorPipe

        supervisor = SupervisorPipe(arguments.supervised)
    return _run(settings, port=settings.worker_port, api=False, supervisor=supervisor)


def _supervise(settings: Settings, count: int) -> int:
    from service import serving
    from service.serving.supervisor.serve import run_supervisor

    listener = serving.bind(settings.host, settings.worker_port, setting="WORKER_PORT")
    with contextlib.closing(listener), database_dsn(settings) as dsn:
        return run_supervisor(
            settings,
            count=count,
            environment=os.environ | {"DATABASE_URL": dsn},
            listener=listener,
            on_ready=lambda: announce(
                settings, listener.getsockname()[1], dsn=dsn, api=False, sign_in_link=None
            ),
        )


def _run(
    settings: Settings,
    *,
    port: int,
    run_worker: bool = True,
    api: bool = True,
    supervisor: "SupervisorPipe | None" = None,
) -> int:
    from service import serving
    from service.app import create_app

    _make_modules_here_importable()
    listener = serving.bind(settings.host, port, setting="PORT" if api else "WORKER_PORT")
    with contextlib.closing(listener), database_dsn(settings) as dsn:
        app = create_app(settings, dsn=dsn, run_worker=run_worker, api=api)

        def on_ready() -> None:
            port = listener.getsockname()[1]
            if supervisor is not None:
                supervisor.say_port(port)
                return
            link = app.state.sign_in_link
            announce(settings, port, dsn=dsn, api=api, sign_in_link=link)

        code = serving.run_app(app, listener=listener, on_ready=on_ready, supervisor=supervisor)
    return _leave(code)


def _make_modules_here_importable() -> None:
    """Let `HANDLER_MODULES` name modules in the working directory, as `python -m` does.

    The installed `finmind-jobs` would look in its own directory instead.
    """
    with contextlib.suppress(FileNotFoundError):  # the directory is gone
        here = str(Path.cwd())
        if here not in sys.path and not sys.flags.safe_path:
            sys.path.insert(0, here)


def _leave(code: int) -> int:
    """Exit even if a plain-function handler does not return: Python would wait for its thread."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(thread.is_alive() and not thread.daemon for thread in others):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


SERVE = Command("serve", "serve HTTP and run jobs", _serve, _add_serve_arguments)
WORKER = Command("worker", "run jobs; serve health and metrics alone", _work, _add_worker_arguments)
