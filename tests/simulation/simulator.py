"""Runs the simulation of a seed, and reports the seed and the last events if it fails."""

import logging
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, WrappedLogger

from service.observability.metrics import HANDLERS_STUCK, WORKER_LEADER, WORKER_UP
from service.observability.queue_gauges import clear_queue_gauges
from service.settings import Environment
from service.testing.settings import IsolatedSettings
from tests.conftest import TEST_SECRET
from tests.simulation.checker import Checker
from tests.simulation.clock import PROCESS, Spinning, install
from tests.simulation.faults import Faults
from tests.simulation.ledger import Violation
from tests.simulation.scenario import Simulation

Scenario = Callable[[Simulation], Coroutine[Any, Any, None]]


async def random_scenario(simulation: Simulation) -> None:
    """The scenario that the seed draws."""
    await simulation.play(Faults(simulation).run)


class Failed(Exception):
    """A simulation broke a rule: its seed, the rule, what happened last, and how to see it again."""


class Simulator:
    """Runs seeds, one after the other."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._clock = install(patch)
        self._base = IsolatedSettings(
            environment=Environment.TEST, jwt_secret=SecretStr(TEST_SECRET)
        )

    def run(self, seed: int, scenario: Scenario = random_scenario, **settings: Any) -> Checker:
        """Run one seed, or the given scenario, with these settings.

        Raises:
            Failed: a rule was broken.
        """
        state = random.getstate()
        random.seed(seed)
        simulation = Simulation(seed, self._clock, self._base, settings)
        checker = simulation.checker
        simulation.loop.set_exception_handler(lambda _, context: _unhandled(checker, context))
        try:
            with log_lines(checker):
                simulation.loop.run_until_complete(scenario(simulation))
        except (Violation, Spinning, Exception) as error:
            raise Failed(report(seed, error, checker)) from error
        finally:
            checker.close()
            simulation.loop.abandon()
            random.setstate(state)
            HANDLERS_STUCK.set(0)  # those of processes that were killed
            WORKER_UP.set(0)
            WORKER_LEADER.set(0)
            clear_queue_gauges()
        return checker


def _unhandled(checker: Checker, context: dict[str, Any]) -> None:
    # A connection that is cut tells so to a statement whose process is dead, or gave it up.
    if not context["message"].startswith("Future exception was never retrieved"):
        checker.violate(f"{context['message']}: {context.get('exception')!r}")


@contextmanager
def log_lines(checker: Checker) -> Iterator[None]:
    """Put the service's log lines into the trace; a loop that failed breaks a rule."""

    def keep(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        process = PROCESS.get()
        checker.note(process.name if process else "-", "log", dict(event))
        checker.events[str(event["event"])] += 1
        if event["event"] == "outcomes_not_recorded" and process is not None:
            checker.watches[process].gave_up = True
        if event["event"] == "worker_loop_failed":
            checker.violate(f"a loop failed: {event}")
        if event["event"] == "permits_repaired":
            checker.violate(f"a count of permits was wrong: {event}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING)
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def report(seed: int, error: BaseException, checker: Checker) -> str:
    """What a failing seed prints."""
    lines = "\n".join("  ".join(map(str, line)) for line in checker.trace)
    return (
        f"seed {seed}: {error!r}\n\n{lines}\n\nseed {seed}: {error}\n"
        f"To see it again: SIMULATION_SEED={seed} make simulation"
    )


def digests(seeds: Iterable[int]) -> list[int]:
    """One number for everything that happens under each seed."""
    with pytest.MonkeyPatch.context() as patch:
        simulator = Simulator(patch)
        return [simulator.run(seed).digest for seed in seeds]


def run_all(seeds: Sequence[int]) -> tuple[Counter[str], str | None]:
    """How often each event occurred under these seeds, and the report of the first failure."""
    seen: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        simulator = Simulator(patch)
        for seed in seeds:
            try:
                seen += simulator.run(seed).events
            except Failed as failed:
                return seen, str(failed)
    return seen, None
