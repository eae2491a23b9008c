"""Requests to `/worker` and the reading of their answers, without I/O."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from finmind_client.calls import Call
from finmind_client.worker.claimed import Claimed, Lease
from finmind_client.worker.outcomes import Verb

MAX_CLAIMED: Final = 100
"""Jobs that one claim brings."""
MAX_LEASES: Final = 1000
"""Jobs that one heartbeat or report names."""
MAX_LOGGING: Final = 100
"""Jobs that one call logs lines of, and lines of each."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What a worker has to keep to."""

    lease_seconds: float
    heartbeat_seconds: float
    max_wait_seconds: float


@dataclass(frozen=True, slots=True)
class Brought:
    """What a claim brought."""

    jobs: Sequence[Claimed]
    drain: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """What a heartbeat found of one job."""

    lease: Lease
    state: str
    lease_seconds: float
    timeout_in_seconds: float | None


@dataclass(frozen=True, slots=True)
class Beats:
    """What a heartbeat found."""

    jobs: Sequence[Beat]
    drain: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a report, or of lines, of one job."""

    lease: Lease
    outcome: str
    full: bool = False


def register(worker: str, **members: Any) -> Call[Registered]:
    """A worker begins."""

    def read(answer: httpx.Response) -> Registered:
        known = answer.json()
        return Registered(
            float(known["lease_seconds"]),
            float(known["heartbeat_seconds"]),
            float(known["max_wait_seconds"]),
        )

    return Call("POST", "/worker/register", read, body={"worker": worker, **members})


def claim(
    worker: str,
    *,
    job_types: Sequence[str],
    queues: Sequence[str] | None,
    limit: int,
    wait_seconds: float,
    request_id: str,
) -> Call[Brought]:
    """Ask for due jobs."""

    def read(answer: httpx.Response) -> Brought:
        found = answer.json()
        return Brought([Claimed.of(one) for one in found["jobs"]], bool(found["drain"]))

    body: dict[str, Any] = {
        "worker": worker, "job_types": list(job_types), "limit": min(limit, MAX_CLAIMED),
        "wait_seconds": wait_seconds, "request_id": request_id,
    }  # fmt: skip
    if queues is not None:
        body["queues"] = list(queues)
    return Call("POST", "/worker/claim", read, body=body, waits_seconds=wait_seconds)


def heartbeat(worker: str, leases: Sequence[Lease]) -> Call[Beats]:
    """Keep jobs."""

    def read(answer: httpx.Response) -> Beats:
        found = answer.json()
        beats = [
            Beat(_lease(one), one["state"], one["lease_seconds"], one["timeout_in_seconds"])
            for one in found["jobs"]
        ]
        return Beats(beats, bool(found["drain"]))

    body = {"worker": worker, "jobs": [lease._asdict() for lease in leases]}
    return Call("POST", "/worker/heartbeat", read, body=body)


def report(worker: str, verb: Verb, reports: Sequence[tuple[Lease, bytes]]) -> Call[Sequence[Told]]:
    """Tell what became of jobs; each with its further members, JSON text without braces."""
    jobs = b",".join(
        b'{"id":%d,"lease_token":%d%s}' % (*lease, b"," + members if members else b"")
        for lease, members in reports
    )
    content = b'{"worker":%s,"jobs":[%s]}' % (json.dumps(worker).encode(), jobs)
    return Call("POST", f"/worker/{verb}", _told, content=content)


def progress(worker: str, jobs: Sequence[tuple[Lease, Mapping[str, Any]]]) -> Call[Sequence[Told]]:
    """Tell how far jobs are."""
    return _notes("progress", worker, jobs)


def log(worker: str, jobs: Sequence[tuple[Lease, Mapping[str, Any]]]) -> Call[Sequence[Told]]:
    """Log lines about jobs."""
    return _notes("log", worker, jobs)


def stop(worker: str) -> Call[None]:
    """The worker stops in good order; its waiting claims are answered."""
    return Call("POST", "/worker/stop", lambda _: None, body={"worker": worker})


def _notes(
    kind: str, worker: str, jobs: Sequence[tuple[Lease, Mapping[str, Any]]]
) -> Call[Sequence[Told]]:
    body = {"worker": worker, "jobs": [lease._asdict() | dict(members) for lease, members in jobs]}
    return Call("POST", f"/worker/{kind}", _told, body=body)


def _told(answer: httpx.Response) -> Sequence[Told]:
    return [
        Told(_lease(one), one["outcome"], bool(one.get("full", False)))
        for one in answer.json()["jobs"]
    ]


def _lease(document: Mapping[str, Any]) -> Lease:
    return Lease(int(document["id"]), int(document["lease_token"]))
