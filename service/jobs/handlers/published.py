"""Tell processes without handlers what the payloads of job types look like."""

import json
from typing import Final

from pydantic import BaseModel

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.handlers.registry import Registry
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

MAX_SCHEMA_BYTES: Final = 20_000
"""A longer schema is not published: a form that asks for so much helps nobody."""

_log = get_logger(__name__)


async def publish_schemas(link: Link, handlers: Registry) -> None:
    """Note the JSON schema of each type's `payload_model`; where that fails a form has none."""
    schemas = {job_type: _schema_of(handlers, job_type) for job_type in handlers.job_types()}
    try:
        await store.served_types.publish(link, schemas)
    except DATABASE_ERRORS as error:
        record_database_error("schemas")
        _log.warning("schemas_not_published", error=type(error).__name__)


def _schema_of(handlers: Registry, job_type: str) -> str | None:
    spec = handlers.get(job_type)
    return None if spec is None else schema_text(spec.policy.payload_model)


def schema_text(model: type[BaseModel] | None) -> str | None:
    """The JSON schema of a model; None where it has none that can be published."""
    if model is None:
        return None
    try:
        text = json.dumps(model.model_json_schema())
    except Exception as error:  # a type of the application's own that tells no schema
        _log.debug("no_schema", model=model.__name__, error=type(error).__name__)
        return None
    return text if len(text) <= MAX_SCHEMA_BYTES and "\\u0000" not in text else None
