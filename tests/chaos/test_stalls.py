"""A process that is stopped past its leases wakes up and is refused, whatever it tries to record."""

import itertools
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from service.db.engine import Database
from service.jobs import retry_dead_letter_job
from service.jobs.core.job import JobId
from service.settings import Settings
from tests.chaos.ledger import Event
from tests.chaos.probe import UNFENCED_VARIABLE
from tests.chaos.trial import PROBE, REPORTS_VARIABLE, Trial
from tests.processes.fleet import Replica, until

STALLS: Final = [
    pytest.param(2, id="short", marks=pytest.mark.timeout(120)),
    pytest.param(200, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(3600)]),
]
KINDS: Final[list[dict[str, Any]]] = [
    {"fails": fails, "obeys": obeys, "lasts": lasts}
    for fails, obeys, lasts in itertools.product((False, True), repeat=3)
]
"""Jobs of each stall: retried by hand meanwhile or not; with a handler that heeds its cancellation or
not; and run elsewhere to the end, or still running there, when the stalled process wakes."""
SETTLES: Final = ("succeeded", "failed", "dead_lettered", "released", "retried")


@pytest.mark.parametrize("stalls", STALLS)
async def test_a_process_stopped_past_its_leases_records_nothing(
    trial: Trial, tmp_path: Path, settings: Settings, stalls: int
) -> None:
    workers = await trial.workers(2, LEASE_SECONDS=1, HEARTBEAT_SECONDS=0.3)
    database = Database(trial.dsn, settings)
    stale = 0
    for number in range(stalls):
        stale += await stall(trial, database, workers, files=tmp_path / str(number))
    await database.close()
    await trial.at_rest()

    counted = {
        what: await trial.fleet.total("finmind_job_events_total", event=f"stale_{what}")
        for what in ("settle", "heartbeat", "progress")
    }
    trial.figures |= {"runs_taken_over": stale, "counted_as_stale": counted}
    verdict = await trial.verdict()
    assert verdict.duplicated == stale > stalls
    # Each run that was taken over is counted once, whether its outcome was sent or withheld.
    assert counted["settle"] == stale
    assert 0 < sum(verdict.refused.get(word, 0) for word in SETTLES) <= stale
    # A heartbeat for a run whose outcome is under way is counted with that outcome.
    # Of each stall some handlers heed no cancellation: they are still there at the next heartbeat.
    assert stalls <= counted["heartbeat"] <= verdict.refused["heartbeat"]
    assert 0 < counted["progress"] == verdict.refused["progress"]


async def test_a_trial_whose_settles_are_not_fenced_does_not_pass(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REPORTS_VARIABLE, str(tmp_path))  # no trial of the service as it is
    leases: dict[str, object] = {"LEASE_SECONDS": 1, "HEARTBEAT_SECONDS": 0.3}
    victim = trial.spawn(module=PROBE, **leases, **{UNFENCED_VARIABLE: 1})
    await victim.ready()
    files = {name: str(tmp_path / name) for name in ("woken", "retried", "over")}
    kind = {"fails": False, "obeys": True, "lasts": True}
    ids = set(await trial.enqueue("chaos.stalling", [kind | files]))
    await begun_times(trial, ids, 1)
    await trial.workers(1, **leases)
    with trial.fault("stopped", victim.pid):
        os.kill(victim.pid, signal.SIGSTOP)
        await begun_times(trial, ids, 2)
        os.kill(victim.pid, signal.SIGCONT)
    # Its lease is over, it gives the job back all the same, and is believed.
    await settled(trial, "released", ids)
    (tmp_path / "over").touch()
    await trial.at_rest()
    with pytest.raises(AssertionError, match=r"released under token .* was accepted after token"):
        await trial.verdict()


async def stall(trial: Trial, database: Database, workers: list[Replica], *, files: Path) -> int:
    """Stop a process past the leases of its jobs, have these run elsewhere, and wake it.

    Returns:
        How many of its runs were taken over.
    """
    woken, retried, over = (files.with_suffix(f".{name}") for name in ("woken", "retried", "over"))
    paths = {"woken": str(woken), "retried": str(retried), "over": str(over)}
    ids = await trial.enqueue("chaos.stalling", [kind | paths for kind in KINDS])
    await begun_times(trial, set(ids), 1)
    begun = {note.job_id: note.pid for note in trial.ledger.of(Event.START) if note.job_id in ids}
    victim = max(workers, key=lambda worker: list(begun.values()).count(worker.pid))
    kinds = dict(zip(ids, KINDS, strict=True))
    held = {job_id for job_id in ids if begun[job_id] == victim.pid}
    fails = {job_id for job_id in held if kinds[job_id]["fails"]}
    lasts = {job_id for job_id in held if kinds[job_id]["lasts"]}
    before = await victim.metric("finmind_job_events_total", event="stale_settle")

    with trial.fault("stopped", victim.pid):
        os.kill(victim.pid, signal.SIGSTOP)
        try:
            await settled(trial, "failed", fails)
            retried.touch()
            for job_id in fails:
                trial.pen.note(Event.RETRIED_BY_HAND, job_id)
                async with database.sessions.begin() as session:
                    await retry_dead_letter_job(session, JobId(job_id))
            await settled(trial, "succeeded", held - lasts)
            await begun_times(trial, lasts - fails, 2)
            await begun_times(trial, lasts & fails, 3)
            assert psutil.Process(victim.pid).status() == psutil.STATUS_STOPPED
        finally:
            woken.touch()
            os.kill(victim.pid, signal.SIGCONT)

        async def told_off() -> bool:
            now = await victim.metric("finmind_job_events_total", event="stale_settle")
            return now >= before + len(held)

        await until(told_off, 20, what="count of every stale settle")
    over.touch()
    await settled(trial, "succeeded", set(ids))
    return len(held)


async def begun_times(trial: Trial, ids: set[int], times: int) -> None:
    """Wait until each job has begun so often."""

    async def all_begun() -> bool:
        begun = Counter(note.job_id for note in trial.ledger.of(Event.START))
        return all(begun[job_id] >= times for job_id in ids)

    await until(all_begun, 30, what=f"run {times} of {len(ids)} jobs")


async def settled(trial: Trial, what: str, ids: set[int]) -> None:
    """Wait until such a settle of each job was accepted."""

    async def all_settled() -> bool:
        accepted = {n.job_id for n in trial.ledger.of(Event.ACCEPTED) if n.detail == what}
        return ids <= accepted

    await until(all_settled, 30, what=f"{len(ids)} jobs {what}")
