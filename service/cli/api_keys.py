"""`api-keys`: make, list and revoke API keys."""

import argparse
from datetime import UTC, datetime, timedelta

from service.auth.api_keys import ApiKey, ApiKeyStore
from service.auth.principal import KeyLimits, Permission
from service.cli.actor import cli_actor
from service.cli.command import Command, number, say
from service.cli.database import with_database
from service.db.engine import Database
from service.settings import Settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("name", help="what it is for")
    create.add_argument(
        "--scope", action="append", required=True, type=Permission, choices=list(Permission)
    )
    create.add_argument(
        "--queue", action="append", help="the only queue that it may use, or several"
    )
    create.add_argument("--job-type", action="append", help="the only job type, or several")
    create.add_argument(
        "--priority", action="append", type=number(0, 9, int), help="the only priority, or several"
    )
    create.add_argument("--days", type=number(0.01, 3650, float), help="how long it holds")
    actions.add_parser("list", help="show every key, without secrets")
    revoke = actions.add_parser("revoke", help="make a key stop working at once")
    revoke.add_argument("prefix", help="as `list` shows it")


def _api_keys(settings: Settings, arguments: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        keys = ApiKeyStore(database)
        try:
            if arguments.action == "create":
                await _create(keys, arguments)
            elif arguments.action == "revoke":
                print(_line(await keys.revoke(arguments.prefix, by="cli", actor=cli_actor())))
            else:
                for key in await keys.list():
                    print(_line(key))
        finally:
            await keys.close()

    with_database(settings, run)
    return 0


async def _create(keys: ApiKeyStore, arguments: argparse.Namespace) -> None:
    made = await keys.create(
        arguments.name,
        arguments.scope,
        created_by="cli",
        expires_at=datetime.now(UTC) + timedelta(days=arguments.days) if arguments.days else None,
        limits=KeyLimits.of(arguments.queue, arguments.job_type, arguments.priority),
        actor=cli_actor(),
    )
    say("The key is shown this once:")
    print(made.key)


def _line(key: ApiKey) -> str:
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


API_KEYS = Command("api-keys", "make, list and revoke API keys", _api_keys, _add_arguments)
