"""`roles`: print the SQL that creates the database roles, without connecting to a database."""

import argparse
from dataclasses import asdict

from service.cli.command import Command
from service.db.roles import RoleNames, roles_sql
from service.settings import Settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    for name, default in asdict(RoleNames()).items():
        if name != "schema":
            parser.add_argument(f"--{name}", default=default, metavar="NAME")
    parser.add_argument(
        "--schema", metavar="NAME", help="where the tables are, over DATABASE_SCHEMA"
    )


def _print_roles(settings: Settings, arguments: argparse.Namespace) -> int:
    names = RoleNames(
        migrator=arguments.migrator,
        runtime=arguments.runtime,
        readonly=arguments.readonly,
        application=arguments.application,
        client=arguments.client,
        schema=arguments.schema or settings.database_schema,
    )
    print(roles_sql(names))
    return 0


ROLES = Command(
    "roles", "print the SQL of least-privilege database roles", _print_roles, _add_arguments
)
