"""What each command of the command line does, given its settings and arguments."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from service.auth.api_keys import ApiKey, ApiKeyStore
from service.auth.principal import KeyLimits, Role
from service.auth.tokens import make_token
from service.banner import announce
from service.db import migrate as migrations
from service.db.embedded import EmbeddedServer
from service.db.engine import Database
from service.db.roles import RoleNames, roles_sql
from service.errors import ConfigurationError, InvalidInput
from service.jobs import NewJob, enqueue_batch, enqueue_many
from service.kept_secret import standing_secret
from service.settings import Settings
from service.signals import ENDING, ending

T = TypeVar("T")


def serve(settings: Settings, arguments: argparse.Namespace) -> int:
    """Serve HTTP and, unless told otherwise, run jobs."""
    return _serve(settings, port=settings.port, run_worker=not arguments.no_worker)


def worker(settings: Settings, _: argparse.Namespace) -> int:
    """Run jobs, and serve health and metrics alone."""
    return _serve(settings, port=settings.worker_port, api=False)


def migrate(settings: Settings, arguments: argparse.Namespace) -> int:
    """Bring the schema to a revision, or print the SQL that would."""

    async def run(database: Database) -> None:
        current = await migrations.current_revision(database)
        known = migrations.revisions()
        back = arguments.to == "base" or (
            current in known
            and arguments.to in known
            and known.index(arguments.to) < known.index(current)
        )
        if back and not arguments.back:
            raise ConfigurationError(
                f"{arguments.to} is behind {current}: going back drops data; add --back to do it"
            )
        if arguments.sql:
            sql = migrations.render_sql(current, arguments.to, schema=database.schema)
            print(sql or "-- nothing to do")
        elif back:
            await migrations.downgrade(database, settings, arguments.to)
        else:
            await migrations.upgrade(database, settings, arguments.to)

    _with_database(settings, run, migrated=False)
    return 0


def roles(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print the SQL that makes the database roles; nothing is asked of a database."""
    names = RoleNames(
        migrator=arguments.migrator,
        runtime=arguments.runtime,
        readonly=arguments.readonly,
        application=arguments.application,
        schema=arguments.schema or settings.database_schema,
    )
    print(roles_sql(names))
    return 0


def token(settings: Settings, arguments: argparse.Namespace) -> int:
    """Print a bearer token; nothing else goes to standard output."""
    if settings.jwt_secret is not None:
        secret = settings.jwt_secret.get_secret_value()
    elif settings.jwt_jwks_url is not None:
        raise ConfigurationError(
            "There is no JWT_SECRET: tokens come from the identity provider of JWT_JWKS_URL"
        )
    else:
        # One that no server uses would make a token that no server takes.
        kept = standing_secret(settings.secret_file)
        if kept is None:
            raise ConfigurationError(
                f"No server has been started with {settings.secret_file.parent}, so that there is no "
                "secret to sign with: call this in the directory of the server, or with its DATA_DIR "
                "or JWT_SECRET"
            )
        secret = kept
    print(
        make_token(
            secret,
            Role(arguments.role),
            subject=arguments.sub,
            hours=arguments.hours,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
        )
    )
    return 0


def api_keys(settings: Settings, arguments: argparse.Namespace) -> int:
    """Make, list or revoke API keys."""

    async def run(database: Database) -> None:
        keys = ApiKeyStore(database)
        try:
            if arguments.action == "create":
                expires_at = (
                    datetime.now(UTC) + timedelta(days=arguments.days) if arguments.days else None
                )
                made = await keys.create(
                    arguments.name,
                    arguments.scope,
                    created_by="cli",
                    expires_at=expires_at,
                    limits=KeyLimits.of(arguments.queue, arguments.job_type, arguments.priority),
                )
                say("The key is shown this once:")
                print(made.key)
            elif arguments.action == "revoke":
                print(_key_line(await keys.revoke(arguments.prefix, by="cli")))
            else:
                for key in await keys.list():
                    print(_key_line(key))
        finally:
            await keys.close()

    _with_database(settings, run)
    return 0


def enqueue(settings: Settings, arguments: argparse.Namespace) -> int:
    """Enqueue one job and print its id."""
    try:
        payload = json.loads(arguments.payload)
    except ValueError as error:
        raise InvalidInput(f"--payload is not JSON: {error}") from None
    job = NewJob(
        arguments.job_type,
        payload,
        queue=arguments.queue,
        priority=arguments.priority,
        max_retries=arguments.max_retries,
        run_at=arguments.run_at,
        delay_seconds=arguments.delay_seconds,
        timeout_seconds=arguments.timeout_seconds,
        unique_key=arguments.unique_key,
    )

    async def run(database: Database) -> None:
        async with database.sessions.begin() as session:
            (enqueued,) = await enqueue_batch(session, [job])
        print(enqueued.id)
        if not enqueued.created:
            say(
                f"Nothing was enqueued: job {enqueued.id} is live and has the unique key "
                f"{arguments.unique_key!r}."
            )

    _with_database(settings, run)
    return 0


def demo(settings: Settings, arguments: argparse.Namespace) -> int:
    """Enqueue a lively mix of demo jobs."""
    from service.demo import mix

    async def run(database: Database) -> None:
        async with database.sessions.begin() as session:
            enqueued = await enqueue_many(session, mix(arguments.jobs))
        say(f"Enqueued {enqueued} jobs; a running `serve` or `worker` takes them up.")

    _with_database(settings, run)
    return 0


# -- inside -------------------------------------------------------------------------------------


def _serve(settings: Settings, *, port: int, run_worker: bool = True, api: bool = True) -> int:
    from service import serving
    from service.app import create_app

    _make_modules_here_importable()
    listener = serving.bind(settings.host, port, setting="PORT" if api else "WORKER_PORT")
    with contextlib.closing(listener), _dsn(settings) as dsn:
        code = serving.run_app(
            create_app(settings, dsn=dsn, run_worker=run_worker, api=api),
            listener=listener,
            on_ready=lambda: announce(settings, listener.getsockname()[1], dsn=dsn, api=api),
        )
    return _leave(code)


def _make_modules_here_importable() -> None:
    """Let `HANDLER_MODULES` name modules in the working directory, as `python -m` does.

    The installed `finmind-jobs` would look beside itself instead.
    """
    with contextlib.suppress(FileNotFoundError):  # the directory is gone
        here = str(Path.cwd())
        if here not in sys.path and not sys.flags.safe_path:
            sys.path.insert(0, here)


@contextlib.contextmanager
def _dsn(settings: Settings, *, says_where: bool = False) -> Iterator[str]:
    """The database of the settings; the embedded server is left at the end, by the last stopped.

    Short commands say where that is: run in another directory they would look at another one.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server = EmbeddedServer.start(settings.data_dir)
    if says_where:
        made = "a new, empty database was made in" if server.made else "using the database in"
        say(f"No DATABASE_URL is set: {made} {settings.secret_file.parent} (DATA_DIR).")
    try:
        yield server.dsn
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)  # stopping is bounded: let it end
        server.stop()


def _with_database(
    settings: Settings, run: Callable[[Database], Awaitable[T]], *, migrated: bool = True
) -> T:
    received: list[int] = []

    async def inside(dsn: str) -> T:
        _cancel_by_signal(received)
        database = Database(dsn, settings)
        try:
            if migrated:
                await migrations.prepare(database, settings)
            return await run(database)
        finally:
            await database.close()

    with _dsn(settings, says_where=True) as dsn:
        try:
            return asyncio.run(inside(dsn))
        except asyncio.CancelledError:
            if not received:
                raise
            sys.exit(128 + received[0])


def _cancel_by_signal(received: list[int]) -> None:
    """Let a signal cancel the current task, and be noted.

    An exception, raised wherever the signal finds the program, can be lost in a callback of the
    driver's. SIGINT is asyncio's own.
    """
    task = asyncio.current_task()
    assert task is not None

    def cancel(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in ending():
        if number is not signal.SIGINT:
            asyncio.get_running_loop().add_signal_handler(number, cancel, number)


def _leave(code: int) -> int:
    """Go, even where a plain-function handler does not return: Python would wait for its thread."""
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(thread.is_alive() and not thread.daemon for thread in others):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


def say(text: str) -> None:
    """For people: on standard error, so that standard output holds results alone."""
    print(text, file=sys.stderr, flush=True)


def _key_line(key: ApiKey) -> str:
    state = "revoked" if key.revoked_at else "active"
    if key.expires_at is not None:
        state += f", expires {key.expires_at.isoformat(timespec='seconds')}"
    limits = "".join(
        f"  {name}={','.join(map(str, allowed))}"
        for name, allowed in (
            ("queues", key.queues),
            ("job_types", key.job_types),
            ("priorities", key.priorities),
        )
        if allowed is not None
    )
    return f"{key.prefix}  {key.name}  {','.join(key.scopes)}{limits}  {state}"
