"""`migrate`: bring the schema to a revision, or print the SQL that would."""

import argparse

from service.cli.command import Command
from service.cli.database import with_database
from service.db import migrate
from service.db.engine import Database
from service.errors import ConfigurationError
from service.settings import Settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sql", action="store_true", help="print what would run")
    parser.add_argument("--to", default="head", metavar="REV", help="revision, or base")
    parser.add_argument("--back", action="store_true", help="allow an older one: drops data")


def _migrate(settings: Settings, arguments: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        current = await migrate.current_revision(database)
        known = migrate.revisions()
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
            sql = migrate.render_sql(current, arguments.to, schema=database.schema)
            print(sql or "-- nothing to do")
        elif back:
            await migrate.downgrade(database, settings, arguments.to)
        else:
            await migrate.upgrade(database, settings, arguments.to)

    with_database(settings, run, migrated=False)
    return 0


MIGRATE = Command("migrate", "bring the schema up to date", _migrate, _add_arguments)
