"""The job types that workers serve, or served lately, and what their payloads look like."""

import json
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import store

MAX_TYPES: Final = 500
"""Job types that one list offers."""


@dataclass(frozen=True, slots=True)
class ServedType:
    """A job type that some worker serves, or has served within a few days."""

    job_type: str
    schema: dict[str, Any] | None
    """JSON schema of its payload; None where its handler has no model, or told none."""


async def served_types(session: AsyncSession) -> list[ServedType]:
    """The first `MAX_TYPES` of them, by name."""
    rows = await store.served_types.offered(session, limit=MAX_TYPES)
    return [ServedType(name, _schema(text)) for name, text in rows]


def _schema(text: str | None) -> dict[str, Any] | None:
    schema = None if text is None else json.loads(text)
    return schema if isinstance(schema, dict) else None
