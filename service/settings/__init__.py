"""All settings of the service, one file per subject; `rules.py` holds the rules between them.

The description of a field is its documentation: docs/configuration.md is generated from it.
"""

from service.settings.auth import MIN_HS256_SECRET_BYTES
from service.settings.database import DEFAULT_SCHEMA, SCHEMA_PATTERN
from service.settings.service import Environment
from service.settings.settings import Settings, load_settings

__all__ = [
    "DEFAULT_SCHEMA",
    "MIN_HS256_SECRET_BYTES",
    "SCHEMA_PATTERN",
    "Environment",
    "Settings",
    "load_settings",
]
