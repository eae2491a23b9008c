"""Settings of the engine in tests: the defaults of a service, whatever the environment says."""

import os
from typing import Any, Final

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from service.errors import ConfigurationError
from service.settings import Environment, Settings

IN_TESTS: Final[dict[str, Any]] = {
    "environment": Environment.TEST,
    "worker_concurrency": 1,  # handlers share the connection of the test
    "sync_handler_threads": 1,
    "lease_seconds": 3600.0,  # for as long as somebody looks around in a debugger
    "heartbeat_seconds": 1200.0,
    "settle_delay_seconds": 0.0,
    "backoff_jitter": 0.0,  # a retry is due when the test says
}


class IsolatedSettings(Settings):
    """Settings that read neither the environment nor `.env`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in code alone."""
        return (init_settings,)


def settings_of(**given: Any) -> Settings:
    """The settings of a test, `default_max_retries=1` and such.

    Raises:
        ConfigurationError: there is no such setting, or a value breaks its rule.
    """
    if unknown := sorted(given.keys() - Settings.model_fields.keys()):
        raise ConfigurationError(
            f"There is no setting {unknown[0]!r}: expected a name of docs/configuration.md in lower case, such as "
            "default_max_retries"
        )
    if schema := os.environ.get("DATABASE_SCHEMA"):  # which `enqueue` reads there
        given = {"database_schema": schema} | given
    try:
        return IsolatedSettings(**IN_TESTS | given)
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}"
            for one in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("Bad settings of a test:\n  " + "\n  ".join(lines)) from None
