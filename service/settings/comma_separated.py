"""Comma-separated lists in environment variables, such as `billing.jobs, crm.jobs`."""

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaSeparated: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""The parts between the commas. Blank parts are dropped."""
