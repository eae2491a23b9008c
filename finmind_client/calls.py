"""Requests and the reading of their answers, without I/O: both clients send these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx

from finmind_client.errors import ApiError, error_of
from finmind_client.models import Enqueued, Job, NewJob

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request to the service."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    """What its answer says."""
    body: Mapping[str, Any] | None = None
    content: bytes | None = None
    """The body as JSON text, in place of `body`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    """Whether to do it twice is to do it once."""
    waits_seconds: float = 0.0
    """How long the service may take before it answers, beside the timeout of the client."""


def enqueue(job: NewJob, *, idempotency_key: str | None) -> Call[Job]:
    """Enqueue a job; a key is made where none is given, so that the call can be repeated."""
    return Call(
        "POST",
        "/jobs",
        lambda answer: Job.of(answer.json(), is_new=answer.status_code == 201, etag=_etag(answer)),
        body=job.body(),
        headers=key_of(idempotency_key),
    )


def enqueue_batch(jobs: Sequence[NewJob], *, idempotency_key: str | None) -> Call[Enqueued]:
    """Enqueue jobs, all or none."""
    body = {"jobs": [job.body() for job in jobs]}
    return Call("POST", "/jobs/batch", read_enqueued, body=body, headers=key_of(idempotency_key))


def chain(jobs: Sequence[NewJob], *, idempotency_key: str | None) -> Call[Enqueued]:
    """Enqueue jobs of which each waits for the one before it."""
    body = {"jobs": [job.body() for job in jobs]}
    return Call("POST", "/jobs/chain", read_enqueued, body=body, headers=key_of(idempotency_key))


def explain(job_id: int) -> Call[Mapping[str, Any]]:
    """Why a job does not run."""
    return Call("GET", f"/jobs/{job_id}/explain", _document)


def send_event(job_id: int, name: str, data: Any, *, reason: str | None) -> Call[Mapping[str, Any]]:
    """Send a job the event that it waits for; of two of one name the first counts."""
    body = {"data": data} | ({} if reason is None else {"reason": reason})
    return Call("POST", f"/jobs/{job_id}/events/{quote(name, safe='')}", _document, body=body)


def get(job_id: int, *, wait_seconds: int = 0) -> Call[Job]:
    """Read a job; with `wait_seconds` when it has ended, or after so long."""
    params = {"wait": wait_seconds} if wait_seconds else {}
    return Call("GET", f"/jobs/{job_id}", _job, params=params, waits_seconds=wait_seconds)


def with_key(unique_key: str) -> Call[list[Mapping[str, Any]]]:
    """The jobs that have, or had, a unique key."""
    return Call(
        "GET",
        "/jobs",
        lambda answer: list(answer.json()["jobs"]),
        params={"unique_key": unique_key},
    )


def cancel(job_id: int, *, reason: str | None) -> Call[Job]:
    """Cancel a job that the caller enqueued."""
    return Call("POST", f"/jobs/{job_id}/cancel", _job, params=_given(reason=reason))


def change(job_id: int, changes: Mapping[str, Any], *, if_match: str | None) -> Call[Job]:
    """Change a PENDING job that the caller enqueued."""
    headers = {} if if_match is None else {"If-Match": if_match}
    # Made twice under If-Match, the second finds what the first changed.
    return Call(
        "PATCH", f"/jobs/{job_id}", _job, body=changes, headers=headers, repeatable=if_match is None
    )


def run_now(job_id: int) -> Call[Job]:
    """Make a PENDING job due at once."""
    return Call("POST", f"/jobs/{job_id}/run-now", _job)


def headers_of(call: Call[T]) -> dict[str, str]:
    """The headers of a request, without the credential."""
    typed = {} if call.content is None else {"Content-Type": "application/json"}
    return typed | dict(call.headers)


def failed(answer: httpx.Response) -> ApiError:
    """The exception for an answer that is no success."""
    try:
        problem = answer.json()
    except ValueError:  # of something between the client and the service
        problem = {"title": answer.reason_phrase, "detail": answer.text[:500]}
    if not isinstance(problem, dict):
        problem = {"detail": str(problem)[:500]}
    return error_of(answer.status_code, problem, retry_after=_retry_after(answer))


def _job(answer: httpx.Response) -> Job:
    return Job.of(answer.json(), etag=_etag(answer))


def _document(answer: httpx.Response) -> Mapping[str, Any]:
    document: Mapping[str, Any] = answer.json()
    return document


def _etag(answer: httpx.Response) -> str | None:
    etag: str | None = answer.headers.get("etag")
    return etag


def _retry_after(answer: httpx.Response) -> float | None:
    try:
        return max(0.0, float(answer.headers["retry-after"]))
    except (KeyError, ValueError):  # none, or a date, which the service does not send
        return None


def read_enqueued(answer: httpx.Response) -> Enqueued:
    """What became of jobs that were enqueued together."""
    document = answer.json()
    return Enqueued(tuple(document["ids"]), document["created"])


def key_of(given: str | None) -> dict[str, str]:
    """The header that names a request; a key is made where none is given."""
    return {"Idempotency-Key": given or uuid4().hex}


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
