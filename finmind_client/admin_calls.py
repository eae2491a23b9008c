"""Requests of operators and the reading of their answers, without I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote
from uuid import uuid4

import httpx

from finmind_client.calls import Call
from finmind_client.models import Job, JobPage

Document: TypeAlias = Mapping[str, Any]
"""An object of an answer, with the members that the API describes."""

Decision = Literal["resolve", "ignore", "reopen"]
OperationVerb = Literal["pause", "resume", "cancel"]


@dataclass(frozen=True, slots=True)
class Page:
    """Some of those that match."""

    items: Sequence[Document]
    cursor: str | int | None
    """Where the next page begins; None: this is the last."""


def jobs(filters: Document, *, cursor: str | None, limit: int) -> Call[JobPage]:
    """One page of jobs that match."""

    def read(answer: httpx.Response) -> JobPage:
        document = answer.json()
        return JobPage(tuple(Job.of(one) for one in document["jobs"]), document["next_cursor"])

    return Call("GET", "/admin/jobs", read, params=_given(**filters, cursor=cursor, limit=limit))


def page(path: str, member: str, filters: Document, *, cursor: str | None) -> Call[Page]:
    """One page of a list; `member` holds it."""

    def read(answer: httpx.Response) -> Page:
        document = answer.json()
        return Page(tuple(document[member]), document.get("next_cursor"))

    return Call("GET", path, read, params=_given(**filters, cursor=cursor))


def logs(job_id: int, *, after: int | None) -> Call[Page]:
    """Some of the lines that a job has logged."""

    def read(answer: httpx.Response) -> Page:
        document = answer.json()
        return Page(tuple(document["lines"]), document["next_after"])

    return Call("GET", f"/admin/jobs/{job_id}/logs", read, params=_given(after=after))


def job(job_id: int) -> Call[Document]:
    """A job with its history."""
    return Call("GET", f"/admin/jobs/{job_id}", _document)


def retry(job_id: int, *, reason: str | None) -> Call[Job]:
    """Run a dead or failed job again."""
    body = _given(reason=reason)
    return Call("POST", f"/admin/jobs/{job_id}/retry", _job, body=body, repeatable=False)


def cancel(job_id: int, *, reason: str | None) -> Call[Job]:
    """Cancel anybody's job."""
    return Call("POST", f"/admin/jobs/{job_id}/cancel", _job, params=_given(reason=reason))


def run_now(job_id: int, *, reason: str | None) -> Call[Job]:
    """Make anybody's PENDING job due at once."""
    return Call("POST", f"/admin/jobs/{job_id}/run-now", _job, params=_given(reason=reason))


def delete(job_id: int, *, reason: str | None) -> Call[None]:
    """Delete a job that does not run."""
    path, params = f"/admin/jobs/{job_id}", _given(reason=reason)
    return Call("DELETE", path, lambda _: None, params=params, repeatable=False)


def stats() -> Call[Document]:
    """How many jobs there are."""
    return Call("GET", "/admin/jobs/stats", _document)


def queues() -> Call[Sequence[Document]]:
    """The queues, with what waits and runs."""
    return Call("GET", "/queues", lambda answer: tuple(answer.json()["queues"]))


def change_queue(name: str, changes: Document) -> Call[Document]:
    """Pause or resume a queue, or set its limits."""
    return Call("PATCH", f"/queues/{quote(name, safe='')}", _document, body=changes)


def workers() -> Call[Sequence[Document]]:
    """The workers, with what they run."""
    return Call("GET", "/admin/workers", lambda answer: tuple(answer.json()["workers"]))


def drain(worker_id: int, *, reason: str | None) -> Call[Document]:
    """Have a worker over HTTP claim no more."""
    path = f"/admin/workers/{worker_id}/drain"
    return Call("POST", path, _document, params=_given(reason=reason))


def decide(fingerprint: str, decision: Decision, members: Document) -> Call[Document]:
    """Say what was done about a cause of dead letters."""
    path = f"/admin/dead-letters/groups/{quote(fingerprint, safe='')}/{decision}"
    return Call("POST", path, _document, body=_given(**members))


def preview(selection: Document) -> Call[Document]:
    """How many jobs an operation would act on."""
    return Call("POST", "/admin/operations/preview", _document, body=_given(**selection))


def start(selection: Document, *, idempotency_key: str | None) -> Call[Document]:
    """Begin an operation; a key is made where none is given, so that the call can be repeated."""
    headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
    body = _given(**selection)
    return Call("POST", "/admin/operations", _document, body=body, headers=headers)


def operation(operation_id: int) -> Call[Document]:
    """An operation, and how far it is."""
    return Call("GET", f"/admin/operations/{operation_id}", _document)


def change_operation(
    operation_id: int, verb: OperationVerb, *, reason: str | None
) -> Call[Document]:
    """Pause, resume or cancel an operation."""
    path = f"/admin/operations/{operation_id}/{verb}"
    return Call("POST", path, _document, body=_given(reason=reason))


def reset_target(name: str, *, reason: str | None) -> Call[Document]:
    """Let a target that failed be called again."""
    path = f"/targets/{quote(name, safe='')}/reset"
    return Call("POST", path, _document, body=_given(reason=reason))


def _job(answer: httpx.Response) -> Job:
    return Job.of(answer.json(), etag=answer.headers.get("etag"))


def _document(answer: httpx.Response) -> Document:
    document: Document = answer.json()
    return document


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
