"""Steps in a simulation: statement by statement, and what must hold of them by our own reckoning.

Which jobs have steps is drawn apart from the scenario; in most seeds none has.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from service.jobs import NewJob
from service.jobs.core.job import JobStatus
from tests.simulation.clock import EPOCH
from tests.simulation.invariants import Run
from tests.simulation.rows import (
    MICROSECONDS,
    Answer,
    Instant,
    Row,
    StepRow,
    Tables,
    microseconds,
    since,
)

EVENT: Final = "e"
"""The event that a job waits for, if it does."""

OPERATIONS: Final = (
    "step:0.0",
    "step:0.3",
    "step:6.0",
    "sleep:0.5",
    "sleep:20.0",
    "event:3.0",
    "event:1000.0",
)
"""What a handler does in each of its runs, before what the plan says: the kind, and seconds."""


class Steps:
    """Stores and reads steps and events."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def _held(self, job_id: int, token: int) -> Row | None:
        row = self.tables.jobs.get(job_id)
        return row if row is not None and row.holds(token) else None

    def store(
        self, at: Instant, *, ids: list[int], tokens: list[int], names: list[str], kinds: list[str],
        attempts: list[int], seconds: list[float], results: list[str | None],
        wait_seconds: list[float | None], wait_untils: list[Any],
    ) -> Answer:  # fmt: skip
        held: Answer = []
        for job_id, token, name, kind, result, wait, until in zip(
            ids, tokens, names, kinds, results, wait_seconds, wait_untils, strict=True
        ):
            if self._held(job_id, token) is None:
                continue
            is_new = (job_id, name) not in self.tables.steps
            if is_new:
                ends = None if wait is None else at.clock + microseconds(wait)
                self.tables.steps[job_id, name] = StepRow(
                    kind, token, result, wait is None, since(until) if until else ends
                )
            held.append((job_id, token, name, is_new))
        return held

    def of_job(self, at: Instant, *, job_id: int) -> Answer:
        return [
            (
                name, step.kind, step.result, step.is_done, step.timed_out,
                0.0 if step.wait_until is None else (step.wait_until - at.clock) / MICROSECONDS,
            )
            for (of, name), step in self.tables.steps.items()
            if of == job_id
        ]  # fmt: skip

    def end_wait(self, at: Instant, *, ids: list[int], tokens: list[int], name: str) -> Answer:
        key = ids[0], name
        step = self.tables.steps.get(key)
        if step is None or self._held(ids[0], tokens[0]) is None or not step.awaits_event:
            return []
        came = key in self.tables.events
        if not came and (step.wait_until or 0) > at.clock:
            return []
        step.is_done, step.timed_out = True, not came
        step.result = self.tables.events.get(key)
        return [(step.kind, step.result, True, step.timed_out)]

    def send_event(
        self, at: Instant, *, job_id: int, name: str, data: str | None, sent_by: str | None
    ) -> Answer:
        key = job_id, name
        if key in self.tables.events:
            return [(False, False, False)]
        self.tables.events[key] = data
        step, row = self.tables.steps.get(key), self.tables.jobs.get(job_id)
        if step is None or not step.awaits_event:
            return [(True, False, False)]
        step.is_done, step.result = True, data
        if (
            row is None or row.status is not JobStatus.PENDING or row.held_for is not None
            or row.next_run_at <= at.clock
        ):  # fmt: skip
            return [(True, True, False)]
        self.tables.change(row).next_run_at = at.clock
        return [(True, True, True)]

    def due_at(self, at: Instant, row: Row, name: str) -> int:
        """When a job is due that waits at this step."""
        step = self.tables.steps.get((row.id, name))
        if step is None or step.is_done or step.wait_until is None:
            return at.clock
        return step.wait_until


class StepLedger:
    """What handlers may rely on."""

    def __init__(
        self, tables: Tables, violate: Callable[[str], None], events: Counter[str], holder: Mapping[int, Any]
    ) -> None:  # fmt: skip
        self._tables = tables
        self._violate = violate
        self._events = events
        self._holder = holder
        self._results: dict[tuple[int, str], str | None] = {}
        """The result of each step as it was stored first."""
        self._stored_at: dict[tuple[int, str], float] = {}

    def stored(self, values: Mapping[str, Any], now: float) -> None:
        """The server carried a STORE out."""
        for job_id, token, name in zip(
            values["ids"], values["tokens"], values["names"], strict=True
        ):
            key = job_id, name
            step = self._tables.steps.get(key)
            if step is None or step.token != token:
                self._events["stale step"] += 1
            elif key not in self._results:
                self._results[key], self._stored_at[key] = step.result, now
                claim = self._holder[job_id]
                if claim.token != token or not claim.open:
                    self._violate(f"step {name} of job {job_id} was stored under a lost lease")

    def called(self, run: Run, name: str) -> None:
        """The function of a step is called."""
        at = self._stored_at.get((run.context.job_id, name))
        if at is not None and at < run.started_at:
            self._violate(f"step {name} of job {run.context.job_id} is done, and is called again")

    def returned(self, run: Run, name: str, value: Any) -> None:
        """A step has returned."""
        stored = self._results.get((run.context.job_id, name))
        if stored is None or json.loads(stored) != value:
            self._violate(f"step {name} of job {run.context.job_id}: {value}, stored is {stored}")
        elif value["of"] != run.context.lease_token:
            self._events["step replayed"] += 1

    def slept(self, run: Run, name: str, now: float) -> None:
        """A sleep has returned."""
        step = self._tables.steps[run.context.job_id, name]
        if (step.wait_until or 0) > microseconds(EPOCH + now) + 1:
            self._violate(f"job {run.context.job_id} slept too short")
        self._events["slept"] += 1

    def came(self, run: Run, value: Any) -> None:
        """A wait for the event has returned its data, None for a timeout."""
        key = run.context.job_id, EVENT
        told = None if value is None else json.dumps(value)
        step = self._tables.steps[key]
        if told != step.result or step.timed_out is not (told is None):
            self._violate(f"job {key[0]} waited for its event, and got {told}: {step}")
        self._events["event missed" if told is None else "event came"] += 1


class StepPlans:
    """Which jobs of a seed have steps, and when their events are sent."""

    def __init__(self, seed: int, *, chunks: bool = False) -> None:
        self._rng = random.Random(f"steps {seed}")
        self._on = self._rng.random() < 0.4 and not chunks

    def give(self, jobs: Sequence[NewJob]) -> None:
        """Give some of these jobs steps: the same in each of their runs."""
        if not self._on:
            return
        for job in jobs:
            if job.job_type in {"work", "rare"} and self._rng.random() < 0.5:
                chosen = self._rng.sample(OPERATIONS, self._rng.randint(1, 3))
                waits = [one for one in chosen if one.startswith("event:")][1:]
                chosen = [one for one in chosen if one not in waits]
                # A run that ends at a wait has used up no plan: what a plan has too many is not reached.
                job.payload = [
                    (*run, *chosen) for run in job.payload for _ in range(1 + len(chosen))
                ]

    def events_of(self, jobs: Sequence[NewJob], made: Sequence[int]) -> list[tuple[int, float]]:
        """The jobs that are sent their event, and after how many seconds."""
        return [
            (job_id, self._rng.choice((0.0, 0.02, 0.5, 4.0, 25.0)))
            for job, job_id in zip_longest(jobs, made)
            if any(part.startswith("event:") for part in job.payload[0][2:])
        ]
