"""`token`: print a bearer token; nothing else goes to standard output."""

import argparse

from service.auth.principal import Role
from service.auth.tokens import make_token
from service.cli.command import Command, number
from service.errors import ConfigurationError
from service.kept_secret import standing_secret
from service.settings import Settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--role", required=True, choices=[role.value for role in Role])
    parser.add_argument("--sub", default="cli", metavar="NAME", help="whom it is for")
    parser.add_argument("--hours", type=number(0.01, 8760, float), default=12.0)


def _print_token(settings: Settings, arguments: argparse.Namespace) -> int:
    print(
        make_token(
            _secret(settings),
            Role(arguments.role),
            subject=arguments.sub,
            hours=arguments.hours,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
        )
    )
    return 0


def _secret(settings: Settings) -> str:
    """The secret that the servers of these settings check tokens with."""
    if settings.jwt_secret is not None:
        return settings.jwt_secret.get_secret_value()
    if settings.jwt_jwks_url is not None:
        raise ConfigurationError(
            "There is no JWT_SECRET: tokens come from the identity provider of JWT_JWKS_URL"
        )
    # A secret that no server uses would make a token that no server accepts.
    kept = standing_secret(settings.secret_file)
    if kept is None:
        raise ConfigurationError(
            f"No server has been started with {settings.secret_file.parent}, so there is no secret "
            "to sign with: run this in the directory of the server, or with its DATA_DIR or JWT_SECRET"
        )
    return kept


TOKEN = Command(
    "token", "print a bearer token signed with JWT_SECRET", _print_token, _add_arguments
)
