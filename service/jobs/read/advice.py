"""An explanation in sentences: how a job stands, and what to do about it."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from service.jobs.core.holds import UNIQUE, key_of_rate
from service.jobs.core.job import DEAD, LIVE, JobId, JobStatus
from service.jobs.read.estimate import Before, words_of
from service.jobs.read.explanation import Explanation, Limit
from service.jobs.read.waiting import Waiting

MAX_NAMED: Final = 5
"""Jobs that one sentence names."""


def summary(why: Explanation) -> str:
    """One or two sentences on how the job stands."""
    if why.waiting_for is not None:
        return _SUMMARIES[why.waiting_for](why)
    if why.run is not None:
        return f"It runs since {when(why.run.since)}{_cancelled(why)}."
    if why.status in LIVE:
        return f"{_startable(why)}, and waits for a free slot of a worker{_behind(why.before)}."
    return f"It has ended: {why.status}, {when(why.since)}."


def advice(why: Explanation) -> list[str]:
    """What to do, one sentence or two for each thing that keeps it from starting."""
    reasons = [] if why.waiting_for is None else [why.waiting_for, *why.also]
    found = [_ADVICE[reason](why) for reason in reasons]
    if why.status == JobStatus.PENDING and why.waiting_for is None:
        found.append(
            "Wait; if it stays so, start more workers, raise WORKER_CONCURRENCY, or give the job a "
            "higher priority."
        )
    if why.cancel_asked_at is not None:
        found.append(
            "Wait: its handler is being stopped, and after CANCEL_GRACE_SECONDS its end is recorded "
            "without waiting for it."
        )
    if why.last_chance:
        found.append(
            f"{why.lost_leases} workers were lost while they ran it: it runs apart from the jobs it was "
            "lost with, and becomes a dead letter with the next one. Look for what it does to its worker."
        )
    if why.status in {JobStatus.DEAD_LETTER, JobStatus.FAILED}:
        found.append("Retry it once its cause is gone: it does not run again by itself.")
    return found


def _start_a_worker(why: Explanation) -> str:
    if _type_is_served(why):
        return (
            f"Start a worker for {why.job_type} whose WORKER_QUEUES name the queue {why.queue} or *, or "
            "move the job to a queue that they serve."
        )
    return (
        f"Start a worker whose HANDLER_MODULES register {why.job_type}. Without one the job becomes "
        "FAILED after SERVED_TYPE_MEMORY_DAYS, or after UNKNOWN_TYPE_GRACE_SECONDS if no worker ever "
        "served the type."
    )


def _raise_limit(why: Explanation) -> str:
    limit = why.limit
    if limit is None:
        return "Wait for a permit."
    if limit.key == UNIQUE:
        return "Wait until that job has ended, or cancel it."
    if limit.max_running is not None and limit.running < limit.max_running:
        goes_first = (
            "jobs before it get it first" if _behind(why.before) else "it gets it within seconds"
        )
        return f"Wait: a permit is free, and {goes_first}."
    kind, _, name = limit.key.partition(":")
    if kind == "queue":
        what = f"Raise max_running of the queue {name} (PATCH /queues/{name})"
    elif limit.set_by_queue:
        what = f"Raise max_running_per_key of the queue {why.queue} (PATCH /queues/{why.queue})"
    else:
        what = f"Raise max_running_per_key of the handler of {why.job_type}"
    return f"{what}, or wait: {_running(limit)}."


def _running(limit: Limit) -> str:
    kind, _, name = limit.key.partition(":")
    under = f"in the queue {name}" if kind == "queue" else f"under {name}"
    runs = "1 job runs" if limit.running == 1 else f"{limit.running} jobs run"
    return f"{runs} {under}"


def _wait(why: Explanation) -> str:
    until = "for its next attempt" if why.attempts else "until it is due"
    return f"Wait {until}, or run it now (POST /admin/jobs/{why.id}/run-now)."


def _waits_for_time(why: Explanation) -> str:
    if why.lost_leases and why.attempts:
        lost = "1 worker was" if why.lost_leases == 1 else f"{why.lost_leases} workers were"
        return (
            f"{lost} lost while they ran it; it is due again at {when(why.due_at)}, apart from the jobs "
            "that it was lost with."
        )
    if why.attempts:
        return f"Attempt {why.attempts} has ended; the next one is due at {when(why.due_at)}."
    return f"It is scheduled for {when(why.due_at)}."


def _waits_for_permit(why: Explanation) -> str:
    limit = why.limit
    if limit is None:
        return "It is due, and waits for a permit."
    if limit.key == UNIQUE:
        return "It is due, and held until another job with its unique key has ended."
    allowed = "as many as may" if limit.max_running is None else f"of {limit.max_running} that may"
    held = "It is due, and held" if why.held_for else "It is due"
    return f"{held}: {_running(limit)}, {allowed}{_behind(why.before)}."


def _waits_for_parents(why: Explanation) -> str:
    parents = why.parents
    if parents is None or not parents.unmet:
        return "The jobs that it comes after have ended: it is let go within seconds."
    at_least = "" if parents.exact else "at least "
    jobs = (
        "1 job that it comes after has"
        if parents.unmet == 1
        else (f"{at_least}{parents.unmet} jobs that it comes after have")
    )
    return f"{jobs[0].upper()}{jobs[1:]} not ended as it needs{_dead_ones(why)}."


def _dead_ones(why: Explanation) -> str:
    dead = _dead_parents(why)
    return f"; {_these(dead)} failed for good" if dead else ""


def _see_to_parents(why: Explanation) -> str:
    if dead := _dead_parents(why):
        return f"Retry {_these(dead)}, or cancel this job, which waits until that succeeds."
    named = [parent.id for parent in why.parents.named] if why.parents else []
    if not named:
        return "Wait."
    return f"Wait, or ask why they do not run (GET /jobs/{named[0]}/explain)."


def _dead_parents(why: Explanation) -> list[JobId]:
    named = why.parents.named if why.parents else []
    return [parent.id for parent in named if parent.status in DEAD]


def _these(jobs: list[JobId]) -> str:
    shown = ", ".join(map(str, jobs[:MAX_NAMED]))
    return f"{'job' if len(jobs) == 1 else 'jobs'} {shown}{' and others' if len(jobs) > MAX_NAMED else ''}"


def _cancelled(why: Explanation) -> str:
    if why.cancel_asked_at is None:
        return ""
    return f"; its cancel was asked for at {when(why.cancel_asked_at)}"


def _waits_for_turn(why: Explanation) -> str:
    of = "" if why.rate is None else f" of {words_of(why.rate)}"
    waits = "held" if why.held_for else "waits"
    return f"It is due, and {waits} until its turn under {_rate_of(why)}{of} comes{_behind(why.before)}."


def _rate_of(why: Explanation) -> str:
    key = key_of_rate(why.held_for or "")
    queue = f"the queue {why.queue}"
    return f"the rate of {queue}" if key is None else f"the rate of the key {key} in {queue}"


def _raise_rate(why: Explanation) -> str:
    name = "rate" if key_of_rate(why.held_for or "") is None else "rate_per_key"
    return f"Wait, or raise the {name} of the queue {why.queue} (PATCH /queues/{why.queue})."


def _waits_for_target(why: Explanation) -> str:
    breaker = why.breaker
    if breaker is None or breaker.opened_at is None:
        return "Its target answers again: it is let go within seconds."
    last = f" ({breaker.last_error})" if breaker.last_error else ""
    return (
        f"Its target {breaker.name} keeps failing since {when(breaker.opened_at)}{last}, and is left alone; "
        f"the next request tries it at {when(breaker.retry_at)}."
    )


def _see_to_target(why: Explanation) -> str:
    if why.breaker is None or why.breaker.opened_at is None:
        return "Wait."
    return (
        "Wait: it uses no attempt meanwhile. Once the target works again, "
        f"POST /targets/{why.breaker.name}/reset lets all go at once."
    )


def _waits_at_step(why: Explanation) -> str:
    if why.step is None:
        return "It waits at a step of its handler."
    if why.waiting_for is Waiting.EVENT:
        return (
            f"It waits for event {why.step.name} since {when(why.step.since)}, and goes on without it at "
            f"{when(why.step.until)}."
        )
    return f"It sleeps until {when(why.step.until)}, at step {why.step.name} of its handler."


def _send_event(why: Explanation) -> str:
    if why.step is None:
        return "Wait."
    return f"Send the event (POST /jobs/{why.id}/events/{why.step.name}), or wait for it."


def _startable(why: Explanation) -> str:
    if why.lease_lost_at is not None:
        return f"The worker that ran it was lost at {when(why.lease_lost_at)}"
    return f"It is due since {when(why.due_at)}"


def _by_whom(why: Explanation) -> str:
    if why.pause is None:
        return ""
    by = f" by {why.pause.by}" if why.pause.by else ""
    reason = f": {why.pause.reason}" if why.pause.reason else ""
    return f"{by} since {when(why.pause.since)}{reason}"


def _no_worker(why: Explanation) -> str:
    live = 0 if why.workers is None else why.workers.live
    if _type_is_served(why):
        return f"workers serve its type {why.job_type}, and none of them its queue {why.queue}"
    if not live:
        return "no worker is alive"
    return f"none of the live workers ({live}) serves its type {why.job_type}"


def _type_is_served(why: Explanation) -> bool:
    return why.workers is not None and any(one.serves_type for one in why.workers.workers)


def _behind(before: Before | None) -> str:
    if before is None or (before.exact and before.jobs == 0):
        return ""
    at_least = "" if before.exact else "at least "
    jobs = "1 job is" if before.jobs == 1 else f"{before.jobs} jobs are"
    return f"; {at_least}{jobs} before it"


def when(moment: datetime | None) -> str:
    """A time in UTC, to the second."""
    if moment is None:
        return "a time that is not known"
    if moment.year in {1, 9999}:  # infinity, as far as Python's calendar goes
        return "no time that will come" if moment.year == 9999 else "all time"
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


_SUMMARIES: Final[Mapping[Waiting, Callable[[Explanation], str]]] = {
    Waiting.TIME: _waits_for_time,
    Waiting.QUEUE_PAUSED: lambda why: (
        f"{_startable(why)}; the queue {why.queue} is paused{_by_whom(why)}."
    ),
    Waiting.WORKER: lambda why: f"{_startable(why)}; {_no_worker(why)}.",
    Waiting.CONCURRENCY: _waits_for_permit,
    Waiting.RATE_LIMIT: _waits_for_turn,
    Waiting.BREAKER: _waits_for_target,
    Waiting.DEPENDENCIES: _waits_for_parents,
    Waiting.SLEEP: _waits_at_step,
    Waiting.EVENT: _waits_at_step,
}

_ADVICE: Final[Mapping[Waiting, Callable[[Explanation], str]]] = {
    Waiting.TIME: _wait,
    Waiting.QUEUE_PAUSED: lambda why: (
        f'Resume the queue {why.queue} (PATCH /queues/{why.queue} with {{"paused": false}}).'
    ),
    Waiting.WORKER: _start_a_worker,
    Waiting.CONCURRENCY: _raise_limit,
    Waiting.RATE_LIMIT: _raise_rate,
    Waiting.BREAKER: _see_to_target,
    Waiting.DEPENDENCIES: _see_to_parents,
    Waiting.SLEEP: lambda _: "Wait: to run it now would not shorten its sleep.",
    Waiting.EVENT: _send_event,
}
