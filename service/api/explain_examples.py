"""Answers of `GET /jobs/{id}/explain`: one for each reason."""

from typing import Any, Final

from service.jobs.read.waiting import Waiting

_SERVED: Final[dict[str, Any]] = {
    "live": 1,
    "serving": 1,
    "slots": 100,
    "named": [
        {
            "name": "web-1:831:c0ffee",
            "queues": ["*"],
            "job_types": ["send_invoice"],
            "serves_type": True,
            "serves_queue": True,
        }
    ],
    "last": None,
}
_UNSERVED: Final[dict[str, Any]] = {
    "live": 0,
    "serving": 0,
    "slots": 0,
    "named": [],
    "last": {"name": "web-1:831:c0ffee", "seen_at": "2026-03-01T09:05:00Z", "stopped": True},
}
_DETAIL: Final[dict[str, Any]] = {
    "due_at": "2026-03-01T09:00:00Z",
    "held_for": None,
    "also": [],
    "step": None,
    "pause": None,
    "limit": None,
    "rate": None,
    "breaker": None,
    "parents": None,
    "workers": _SERVED,
    "behind": None,
    "run": None,
    "last_chance": False,
}
_STEP: Final[dict[str, Any]] = {
    "kind": "event",
    "name": "paid",
    "since": "2026-03-01T09:00:00Z",
    "until": "2026-03-01T10:00:00Z",
}
_ESTIMATE: Final[dict[str, Any]] = {
    "start_at": "2026-03-01T09:11:00Z",
    "drain_seconds": 120.5,
    "exact": True,
    "based_on": "4120 attempts of the queue billing ended in the last 10 minutes",
}


def _example(
    title: str,
    waiting_for: Waiting | None,
    said: str,
    *,
    advice: str | None,
    status: str = "PENDING",
    since: str = "2026-03-01T09:00:00Z",
    estimate: dict[str, Any] | None = None,
    **detail: Any,
) -> dict[str, Any]:
    value = {
        "id": 42,
        "status": status,
        "waiting_for": waiting_for,
        "since": since,
        "summary": said,
        "detail": _DETAIL | detail,
        "estimate": estimate,
        "advice": [] if advice is None else [advice],
    }
    return {"summary": title, "value": value}


EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "time": _example(
        "It is scheduled",
        Waiting.TIME,
        "It is scheduled for 2026-03-01 10:00:00 UTC.",
        advice="Wait until it is due, or run it now (POST /admin/jobs/42/run-now).",
        due_at="2026-03-01T10:00:00Z",
        estimate=_ESTIMATE
        | {
            "start_at": "2026-03-01T10:00:00Z",
            "drain_seconds": None,
            "based_on": "when it is due",
        },
    ),
    "worker": _example(
        "No worker serves it",
        Waiting.WORKER,
        "It is due since 2026-03-01 09:00:00 UTC; no worker is alive.",
        advice="Start a worker whose HANDLER_MODULES register send_invoice. Without one the job becomes "
        "FAILED after SERVED_TYPE_MEMORY_DAYS, or after UNKNOWN_TYPE_GRACE_SECONDS if no worker ever "
        "served the type.",
        since="2026-03-01T09:05:00Z",
        workers=_UNSERVED,
        behind={"jobs": 12, "exact": True},
    ),
    "queue_paused": _example(
        "Its queue is paused",
        Waiting.QUEUE_PAUSED,
        "It is due since 2026-03-01 09:00:00 UTC; the queue billing is paused by olga since "
        "2026-03-01 08:30:00 UTC: the bank is down.",
        advice='Resume the queue billing (PATCH /queues/billing with {"paused": false}).',
        pause={"since": "2026-03-01T08:30:00Z", "by": "olga", "reason": "the bank is down"},
        behind={"jobs": 12, "exact": True},
    ),
    "concurrency": _example(
        "A limit is reached",
        Waiting.CONCURRENCY,
        "It is due, and held: 3 jobs run under customer:7, of 3 that may; 5 jobs are before it.",
        advice="Raise max_running_per_key of the queue billing (PATCH /queues/billing), or wait: 3 jobs "
        "run under customer:7.",
        held_for="key:customer:7",
        limit={
            "key": "key:customer:7",
            "max_running": 3,
            "running": 3,
            "holders": [
                {
                    "id": 31,
                    "job_type": "send_invoice",
                    "queue": "billing",
                    "since": "2026-03-01T08:59:00Z",
                    "worker": "web-1:831:c0ffee",
                }
            ],
        },
        behind={"jobs": 5, "exact": True},
        estimate=_ESTIMATE
        | {
            "drain_seconds": None,
            "based_on": "3 at once, and jobs of type send_invoice ran for 62.1 s (median of the last hour)",
        },
    ),
    "rate_limit": _example(
        "A rate is reached",
        Waiting.RATE_LIMIT,
        "It is due, and held until its turn under the rate of the queue billing of 100 jobs in 60 s comes; 5 "
        "jobs are before it.",
        advice="Wait, or raise the rate of the queue billing (PATCH /queues/billing).",
        held_for="rate:billing",
        rate={"limit": 100, "per_seconds": 60.0, "burst": 10},
        behind={"jobs": 5, "exact": True},
        estimate=_ESTIMATE
        | {
            "start_at": "2026-03-01T09:00:04Z",
            "drain_seconds": None,
            "based_on": "100 jobs in 60 s may start",
        },
    ),
    "breaker": _example(
        "Its target keeps failing",
        Waiting.BREAKER,
        "Its target crm.example.com:443 keeps failing since 2026-03-01 09:00:00 UTC (answered 503 Service "
        "Unavailable), and is left alone; the next request tries it at 2026-03-01 09:02:00 UTC.",
        advice="Wait: it uses no attempt meanwhile. Once the target works again, "
        "POST /targets/crm.example.com:443/reset lets all go at once.",
        held_for="breaker:crm.example.com:443",
        breaker={
            "name": "crm.example.com:443",
            "opened_at": "2026-03-01T09:00:00Z",
            "retry_at": "2026-03-01T09:02:00Z",
            "last_error": "answered 503 Service Unavailable",
        },
        behind={"jobs": 5, "exact": True},
    ),
    "dependencies": _example(
        "It comes after other jobs",
        Waiting.DEPENDENCIES,
        "1 job that it comes after has not ended as it needs.",
        advice="Wait, or ask why they do not run (GET /jobs/41/explain).",
        held_for="after",
        parents={
            "unmet": 1,
            "exact": True,
            "named": [
                {
                    "id": 41,
                    "job_type": "import_file",
                    "queue": "billing",
                    "status": "RUNNING",
                    "on_parent_failure": "cancel",
                }
            ],
        },
    ),
    "sleep": _example(
        "A step of its handler sleeps",
        Waiting.SLEEP,
        "It sleeps until 2026-03-01 10:00:00 UTC, at step sleep of its handler.",
        advice="Wait: to run it now would not shorten its sleep.",
        due_at="2026-03-01T10:00:00Z",
        step=_STEP | {"kind": "sleep", "name": "sleep"},
        estimate=_ESTIMATE
        | {
            "start_at": "2026-03-01T10:00:00Z",
            "drain_seconds": None,
            "based_on": "when it is due",
        },
    ),
    "event": _example(
        "A step of its handler waits for an event",
        Waiting.EVENT,
        "It waits for event paid since 2026-03-01 09:00:00 UTC, and goes on without it at 2026-03-01 "
        "10:00:00 UTC.",
        advice="Send the event (POST /jobs/42/events/paid), or wait for it.",
        due_at="2026-03-01T10:00:00Z",
        step=_STEP,
    ),
    "slot": _example(
        "It waits for a free slot",
        None,
        "It is due since 2026-03-01 09:00:00 UTC, and waits for a free slot of a worker; at least 10000 "
        "jobs are before it.",
        advice="Wait; if it stays so, start more workers, raise WORKER_CONCURRENCY, or give the job a "
        "higher priority.",
        behind={"jobs": 10_000, "exact": False},
        estimate=_ESTIMATE | {"exact": False},
    ),
    "running": _example(
        "It runs",
        None,
        "It runs since 2026-03-01 09:00:00 UTC.",
        advice=None,
        status="RUNNING",
        workers=None,
        run={
            "worker": "web-1:831:c0ffee",
            "since": "2026-03-01T09:00:00Z",
            "timeout_seconds": 300.0,
            "lease_until": "2026-03-01T09:00:30Z",
        },
    ),
}
