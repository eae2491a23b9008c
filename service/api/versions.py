"""The version of a job: the `ETag` that an answer has, and `If-Match`, by which a change names it.

It is PostgreSQL's own number of the transaction that wrote the row (`xmin`): no column, nothing to
write. Each step of a job is another number; so are a heartbeat and progress, while it runs.
"""

from typing import Annotated, Any, Final

from fastapi import Header, Response

from service.jobs.core.job import BackgroundJob

_PATTERN: Final = r'^(\*|"\d{1,10}"(\s*,\s*"\d{1,10}"){0,9})$'

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        pattern=_PATTERN,
        description="Change the job only if its `ETag` is still this one, or one of up to 10.",
        examples=['"81524"'],
    ),
]

ETAG: Final[dict[str, Any]] = {
    "ETag": {
        "description": "The version of the job, for `If-Match`.",
        "schema": {"type": "string"},
    }
}
"""`headers` of a response, for OpenAPI."""


def versions_of(if_match: str | None) -> frozenset[str] | None:
    """The versions that a request names; None where any will do."""
    if if_match is None or if_match == "*":
        return None
    return frozenset(one.strip().strip('"') for one in if_match.split(","))


def tag(response: Response, job: BackgroundJob) -> None:
    """Give the answer the job's version."""
    response.headers["ETag"] = f'"{job.version}"'
