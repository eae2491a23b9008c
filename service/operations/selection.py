"""Which jobs an operation is for, as it is asked for and as it is kept."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from service.api.job_query import JobSelection, parameters
from service.api.patterns import PLAIN_NUMBER
from service.errors import InvalidInput
from service.jobs.core.bulk_action import ACTS_ON, Verb
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import MAX_ID

MAX_IDS: Final = 10_000
"""Jobs that an operation may name."""

_LISTS: Final = frozenset({"ids", "status", "payload"})


def _one_or_list(values: object) -> object:
    """Each filter is one value or a list; one that takes a single value takes a list of one."""
    if not isinstance(values, Mapping):
        return values
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in _LISTS:
            found[name] = value if isinstance(value, list) else [value]
        elif isinstance(value, list) and len(value) == 1:
            found[name] = value[0]
        else:
            found[name] = value
    return found


class Selection(JobSelection):
    """The filters of the list of jobs, by the names of its query parameters."""

    ids: list[Annotated[int, Field(ge=1, le=MAX_ID), PLAIN_NUMBER]] | None = Field(
        None, max_length=MAX_IDS, description="These jobs."
    )

    _listed = model_validator(mode="before")(_one_or_list)


def kept(filters: JobFilters) -> dict[str, Any]:
    """Filters as an operation keeps them: by the names of the query, with times that are fixed."""
    found: dict[str, Any] = {}
    for name, value in parameters(filters):
        if name in _LISTS:
            found.setdefault(name, []).append(int(value) if name == "ids" else value)
        else:
            found[name] = int(value) if name == "priority" else value
    return found


def read_kept(stored: Mapping[str, Any]) -> JobFilters:
    """The filters again."""
    # No time in them counts from now.
    return Selection.model_validate(stored).filters(datetime.now(UTC))


def names_jobs(filters: JobFilters) -> bool:
    """Whether the jobs are named one by one: then each that is not acted on is accounted for."""
    return filters.active() == {"ids"}


def acted_on(filters: JobFilters, verb: Verb) -> JobFilters:
    """The filters, and of the statuses those that the verb is for.

    Raises:
        InvalidInput: they ask for other statuses alone.
    """
    fit = ACTS_ON[verb]
    wanted = fit if filters.statuses is None else fit & frozenset(filters.statuses)
    if not wanted:
        raise InvalidInput(
            f"{verb} is for jobs that are {' or '.join(sorted(fit))}: the filter asks for "
            f"{', '.join(sorted(filters.statuses or ()))}",
            field="body.filter.status",
        )
    return replace(filters, statuses=wanted)
