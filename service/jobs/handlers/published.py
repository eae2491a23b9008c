"""Tell processes without handlers, and SQL, what is to be known of job types."""

import json
from typing import Any, Final

from pydantic import BaseModel

from service.db.connection import Link
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.job_types import JobTypePolicy
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES
from service.jobs.handlers.registry import Registry
from service.jobs.store.served_types import Published
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

MAX_SCHEMA_BYTES: Final = 20_000
"""A longer schema is not published: a form that asks for so much helps nobody."""

_log = get_logger(__name__)


async def publish_types(
    link: Link, handlers: Registry, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
) -> None:
    """Note each type's payload schema, what it sets for new jobs, and how long their payloads may be.

    Where that fails a form has no schema, and `enqueue_job` of SQL goes by what was noted before.
    """
    types = {
        spec.job_type: Published(
            schema_text(spec.policy.payload_model),
            rules_text(spec.policy, max_payload_bytes=max_payload_bytes),
        )
        for spec in map(handlers.get, handlers.job_types())
        if spec is not None
    }
    try:
        await store.served_types.publish(link, types)
    except DATABASE_ERRORS as error:
        record_database_error("types")
        _log.warning("types_not_published", error=type(error).__name__)


def rules_text(policy: JobTypePolicy, *, max_payload_bytes: int) -> str | None:
    """What is set for new jobs of a type, as JSON text; None where nothing is."""
    rules: dict[str, Any] = {}
    if policy.queue is not None:
        rules["queue"] = policy.queue
    if isinstance(policy.concurrency_key, str):
        rules["concurrency_key"] = policy.concurrency_key
    elif policy.concurrency_key is not None:
        rules["key_by_function"] = True
    if policy.encrypt is not None:
        rules["encrypt"] = policy.encrypt
    if policy.internal:
        rules["internal"] = True
    if max_payload_bytes != DEFAULT_MAX_PAYLOAD_BYTES:
        rules["max_payload_bytes"] = max_payload_bytes
    return json.dumps(rules) if rules else None


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
