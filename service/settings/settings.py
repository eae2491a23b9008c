"""All settings as one class, read once at start from the environment and `.env`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import (
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import ConfigurationError
from service.kept_secret import kept_secret
from service.settings import rules
from service.settings.auth import AuthSettings
from service.settings.dashboard import DashboardSettings
from service.settings.database import DatabaseSettings
from service.settings.http import HTTPSettings
from service.settings.jobs import JobsSettings
from service.settings.maintenance import MaintenanceSettings
from service.settings.reminders import RemindersSettings
from service.settings.schedules import SchedulesSettings
from service.settings.service import ServiceSettings
from service.settings.targets import TargetsSettings
from service.settings.worker import WorkerSettings


# Pydantic takes the fields of the last base first. Read upwards, this is the order of
# docs/configuration.md and of the lines in an error.
class Settings(
    TargetsSettings,
    RemindersSettings,
    SchedulesSettings,
    DashboardSettings,
    AuthSettings,
    HTTPSettings,
    MaintenanceSettings,
    JobsSettings,
    WorkerSettings,
    DatabaseSettings,
    ServiceSettings,
    BaseSettings,
):
    """The settings of all subjects. The name of a bound ends with its unit."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object, info: ValidationInfo) -> object:
        # Compose files and shells pass "VAR=" for a variable that is not set.
        optional = cls.model_fields[info.field_name or ""].default is None
        return None if optional and isinstance(value, str) and not value.strip() else value

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Report broken rules together with invalid values, so that one start shows every error."""
        refused: list[InitErrorDetails] = []
        names: set[str] = set()
        try:
            settings = build(values)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                name = str(problem["loc"][0])
                names.add(name)
                refused.append(_refusal(problem["msg"].removeprefix("Value error, "), name))
            settings = build({name: value for name, value in values.items() if name not in names})
        refused += [_refusal(words) for about, words in _broken(settings) if not about & names]
        if refused:
            raise ValidationError.from_exception_data(cls.__name__, refused)
        return settings

    def signing_secret(self) -> str | None:
        """The HS256 secret, or None if tokens are verified with a JWKS.

        In development the first call creates a secret in `DATA_DIR/jwt_secret` (mode 600), so that
        tokens stay valid after a restart and other commands can sign them.
        """
        if self.jwt_secret is not None:
            return self.jwt_secret.get_secret_value()
        if self.jwt_jwks_url is not None or self.is_production:
            return None
        return kept_secret(self.secret_file)

    @property
    def secret_file(self) -> Path:
        """File of the development secret, used if JWT_SECRET is not set."""
        return self.data_dir.expanduser().resolve() / "jwt_secret"


def _broken(settings: Settings) -> Iterator[rules.Broken]:
    yield from rules.worker(settings)
    yield from rules.channels(settings)
    if settings.is_production:
        yield from rules.database_in_production(settings)
        yield from rules.auth_in_production(settings)
        yield from rules.channels_in_production(settings)


def _refusal(words: str, name: str | None = None) -> InitErrorDetails:
    """One error, of one setting or of several. It omits the value, which may be a secret."""
    return InitErrorDetails(
        type=PydanticCustomError("settings", "{words}", {"words": words}),
        loc=() if name is None else (name,),
        input=None,
    )


def load_settings() -> Settings:
    """Read the settings from the environment.

    Raises:
        ConfigurationError: values are missing or invalid; the message names all of them.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            ": ".join([*(str(part).upper() for part in problem["loc"][:1]), problem["msg"]])
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("Bad configuration:\n  " + "\n  ".join(lines)) from None
