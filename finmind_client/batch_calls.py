"""Requests about batches and the reading of their answers, without I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

from finmind_client.calls import Call, key_of, read_enqueued
from finmind_client.models import Enqueued, NewJob

Document: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some of the batches, newest first."""

    batches: Sequence[Document]
    next_cursor: str | None


def create(name: str, *, on_complete: NewJob | None, on_failure: NewJob | None) -> Call[Document]:
    """Make a batch; made twice, there are two."""
    body: dict[str, Any] = {"name": name}
    if on_complete is not None:
        body["on_complete"] = on_complete.body()
    if on_failure is not None:
        body["on_failure"] = on_failure.body()
    return Call("POST", "/batches", _document, body=body, repeatable=False)


def page(*, unfinished: bool | None, cursor: str | None) -> Call[BatchPage]:
    """One page of batches."""

    def read(answer: httpx.Response) -> BatchPage:
        document = answer.json()
        return BatchPage(tuple(document["batches"]), document["next_cursor"])

    members = {"unfinished": unfinished, "cursor": cursor}
    params = {name: value for name, value in members.items() if value is not None}
    return Call("GET", "/batches", read, params=params)


def get(batch_id: int) -> Call[Document]:
    """Read a batch."""
    return Call("GET", f"/batches/{batch_id}", _document)


def add(batch_id: int, jobs: Sequence[NewJob], *, idempotency_key: str | None) -> Call[Enqueued]:
    """Enqueue jobs of a batch, all or none."""
    body = {"jobs": [job.body() for job in jobs]}
    path = f"/batches/{batch_id}/jobs"
    return Call("POST", path, read_enqueued, body=body, headers=key_of(idempotency_key))


def close(batch_id: int) -> Call[Document]:
    """No more jobs come."""
    return Call("POST", f"/batches/{batch_id}/close", _document)


def cancel(batch_id: int, *, reason: str | None) -> Call[Document]:
    """Cancel a batch and its jobs."""
    params = {} if reason is None else {"reason": reason}
    return Call("POST", f"/batches/{batch_id}/cancel", _document, params=params)


def _document(answer: httpx.Response) -> Document:
    document: Document = answer.json()
    return document
