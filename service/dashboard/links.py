"""Links from page to page: how they are written, and read."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError

from service.errors import InvalidInput
from service.jobs.core.search import Search

FAILED: Final = ("FAILED", "DEAD_LETTER")
"""The statuses of jobs that failed for good."""

Query = TypeVar("Query", bound=BaseModel)


def jobs_href(**terms: str | Sequence[str]) -> str:
    """The list of jobs with this search: `jobs_href(type="mail", status=["FAILED", "DEAD_LETTER"])`."""
    search = Search()
    for field, values in terms.items():
        for value in [values] if isinstance(values, str) else values:
            search = search.also(field, value)
    return f"/dashboard/jobs?{urlencode({'q': str(search)})}"


def queue_href(name: str) -> str:
    """The page of a queue; in the query, since a name by plain SQL may hold anything."""
    return f"/dashboard/queues/queue?{urlencode({'name': name})}"


def schedule_href(name: str) -> str:
    """The page of a schedule; in the query, as that of a queue."""
    return f"/dashboard/schedules/schedule?{urlencode({'name': name})}"


def group_href(fingerprint: str) -> str:
    """The page of a cause of dead letters."""
    return f"/dashboard/dead-letters/{quote(fingerprint, safe='')}"


def read_link(model: type[Query], values: Mapping[str, Any], *, otherwise: str) -> Query:
    """What the query of a link asks for.

    Raises:
        InvalidInput: it cannot be read; the words name the part, and `otherwise` is another way.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"])) or "the query"
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(
            f"The link cannot be read: {name} is {str(first['input'])[:100]!r}: {message}. "
            f"Correct it in the address, or {otherwise}."
        ) from None
