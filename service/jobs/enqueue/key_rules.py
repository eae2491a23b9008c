"""New jobs that say what is to become of them, or of the holder, where their `unique_key` is held.

Those whose keys are free are stored together. Each of the others is decided on by itself, in a few
statements of the caller's transaction. They come in the order of their keys, so that two batches do not
wait for each other in a circle, and those with one key in the order given.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from service.errors import Conflict, KeyHeld
from service.jobs import store
from service.jobs.core.encoded_jobs import EncodedJobs
from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.new_job import EnqueuedJob
from service.jobs.core.unique_key import KeyRule
from service.jobs.store.enqueue import Fetch
from service.jobs.store.unique_windows import Window
from service.jobs.store.uniqueness import Holder

GIVE_UP_SECONDS: Final = 4.0
"""How long a job is tried to be stored, or its holder to be changed: less than QUERY_TIMEOUT_SECONDS, so
that the answer says why. Where many ask for one key, each round may be lost to somebody else."""

_FIRST_PAUSE_SECONDS: Final = 0.001
_LONGEST_PAUSE_SECONDS: Final = 0.5
"""Before a holder that is about to start, or has just ended, is looked at again. Each further pause is
twice as long, up to this: fifty requests for one key would otherwise keep its worker from going on."""


def ruled(jobs: EncodedJobs) -> list[int]:
    """Positions of the jobs to be decided on: those with a rule, and others that share a key with one."""
    keys, rules = jobs.columns["unique_key"], jobs.columns["key_rule"]
    shared = {key for key, rule in zip(keys, rules, strict=True) if rule is not None}
    positions = [at for at, key in enumerate(keys) if key in shared]
    return sorted(positions, key=lambda at: (keys[at], at))


async def insert_by_rule(
    fetch: Fetch, jobs: EncodedJobs, positions: Sequence[int], *, reader: str | None
) -> dict[int, EnqueuedJob]:
    """Store the jobs at these positions, or do to the holders of their keys what they say.

    Args:
        fetch: runs a statement in the caller's transaction.
        jobs: all that are to be stored.
        positions: as `ruled` returns them.
        reader: the caller who may be told of its own jobs alone; None: of all.

    Raises:
        KeyHeld: a job may not be stored, since its key is held. What was stored before is for the
            caller to roll back.
        Conflict: a key was taken and freed again and again meanwhile.
    """
    made = await _insert_first(fetch, jobs, positions) if len(positions) > 1 else {}
    for at in positions:
        if at in made:
            continue
        try:
            made[at] = await _insert(fetch, EncodedJobs([jobs.rows[at]]), reader=reader)
        except Conflict as error:
            if len(jobs) > 1:
                error.detail = f"Job {at}: {error.detail}"
                error.args = (error.detail,)
            raise
    return made


async def _insert_first(
    fetch: Fetch, jobs: EncodedJobs, positions: Sequence[int]
) -> dict[int, EnqueuedJob]:
    """Store together the first job of each key that is free, where its rule says no more of that."""
    keys, rules = jobs.columns["unique_key"], jobs.columns["key_rule"]
    first: dict[str, int] = {}
    for at in positions:
        first.setdefault(keys[at], at)
    plain = [at for at in first.values() if rules[at] is None or not rules[at].takes_turns]
    if not plain:
        return {}
    rows = await store.enqueue.insert_keyed(fetch, EncodedJobs([jobs.rows[at] for at in plain]))
    return {first[row[3]]: EnqueuedJob(row[0], True, row[1], row[2]) for row in rows}


async def _insert(fetch: Fetch, job: EncodedJobs, *, reader: str | None) -> EnqueuedJob:
    (key,), (rule,) = job.columns["unique_key"], job.columns["key_rule"]
    if rule is None or rule.for_seconds is None:
        return await _decide(fetch, job, rule, reader=reader)
    window = await store.unique_windows.lock(fetch, key, reader=reader)
    if window.open:
        if rule.on_conflict == "reject":
            raise KeyHeld(f"unique_key {key!r} is held by {_of_window(window)}")
        return EnqueuedJob(window.job_id, False, window.created_at, window.next_run_at)
    made = await _decide(fetch, job, rule, reader=reader)
    if made.created:
        caller, seconds = job.columns["enqueued_by"][0], rule.for_seconds
        await store.unique_windows.open_for(fetch, key, made, caller=caller, seconds=seconds)
    return made


async def _decide(
    fetch: Fetch, job: EncodedJobs, rule: KeyRule | None, *, reader: str | None
) -> EnqueuedJob:
    key = job.columns["unique_key"][0]
    pause, until = _FIRST_PAUSE_SECONDS, time.monotonic() + GIVE_UP_SECONDS
    while True:
        if rows := await _change_holder(fetch, job, rule):
            return EnqueuedJob(rows[0][0], False, *rows[0][1:3])
        if (made := await _store(fetch, job, rule)) is not None:
            return made
        holder = await _holder(fetch, key, rule, reader=reader)
        if holder is not None:
            if rule is None or rule.on_conflict == "return":
                return EnqueuedJob(holder.id, False, holder.created_at, holder.next_run_at)
            if (words := _refusal(rule, holder, job)) is not None:
                raise KeyHeld(f"unique_key {key!r} is held by {words}")
        if time.monotonic() >= until:
            raise Conflict(
                f"unique_key {key!r} was taken and freed again and again while this job was being "
                "enqueued: try again"
            )
        # It has ended by now, or is PENDING, or gives its key up in a moment.
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def _store(fetch: Fetch, job: EncodedJobs, rule: KeyRule | None) -> EnqueuedJob | None:
    """Store the job if its key is free."""
    if rule is None or rule.on_conflict != "keep_latest":
        rows = await store.enqueue.insert_keyed(fetch, job)
        return EnqueuedJob(rows[0][0], True, *rows[0][1:3]) if rows else None
    # Held at first: only a statement that begins when the key is this job's sees for certain whether
    # another one runs that had it before.
    if not (rows := await store.enqueue.insert_waiting(fetch, job)):
        return None
    due = rows[0][2]
    for started in await store.unique_turns.start_next(fetch, job.columns["unique_key"]):
        due = started.next_run_at
    return EnqueuedJob(rows[0][0], True, rows[0][1], due)


async def _change_holder(fetch: Fetch, job: EncodedJobs, rule: KeyRule | None) -> Sequence[Any]:
    if rule is None or rule.on_conflict in {"return", "reject"}:
        return ()
    if rule.on_conflict == "extend":
        seconds = rule.debounce_max_seconds
        change = partial(store.uniqueness.extend_holder, fetch, job, debounce_max_seconds=seconds)
    else:
        started = rule.on_conflict == "keep_latest"
        change = partial(store.uniqueness.replace_holder, fetch, job, started=started)
    rows = await store.uniqueness.unlocked(fetch, change)
    if rows and rule.on_conflict != "extend":
        await store.steps.forget(fetch, JobId(rows[0][0]))  # of the payload before
    return rows


async def _holder(
    fetch: Fetch, key: str, rule: KeyRule | None, *, reader: str | None
) -> Holder | None:
    if reader is None and (rule is None or rule.on_conflict == "reject"):
        return await store.uniqueness.holder_status(fetch, key)
    return await store.uniqueness.holder(fetch, key, reader=reader)


def _refusal(rule: KeyRule, holder: Holder, job: EncodedJobs) -> str | None:
    """Who holds the key, and the way out; None: the holder can be changed by now."""
    if holder.of_another:
        return "a job of another caller: use a key that begins with a name of your own"
    job_type = job.columns["job_type"][0]
    who = f"job {holder.id}, which is {holder.status}"
    match rule.on_conflict:
        case "reject":
            return (
                f"{who}, and on_conflict is 'reject': wait until that job has ended, cancel it, or send "
                "the request with on_conflict 'return' to get that job"
            )
        case policy if holder.job_type != job_type:
            return (
                f"job {holder.id} of type {holder.job_type!r}: on_conflict {policy!r} changes a job of "
                "its own type alone, so use another key"
            )
        case _ if holder.status == JobStatus.PENDING or holder.until_start:
            return None
        case "keep_latest":
            return (
                f"{who} and has it until it has ended, since it was enqueued under another on_conflict: "
                "send the request again then, and enqueue all jobs of a key with 'keep_latest'"
            )
        case policy:
            return (
                f"{who}: on_conflict {policy!r} changes a PENDING job alone. Send the request again "
                "when that job has ended, or enqueue jobs of this key with unique_scope "
                "'until_started' or on_conflict 'keep_latest'"
            )


def _of_window(window: Window) -> str:
    until = f"until {window.until:%Y-%m-%dT%H:%M:%SZ}"
    if window.of_another:
        return f"a job of another caller {until}: use a key that begins with a name of your own"
    return (
        f"job {window.job_id} {until} (unique_for_seconds): send the request after that, or with "
        "on_conflict 'return' to get that job"
    )
