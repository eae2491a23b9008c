"""Scenarios that seeds have found, repeated on purpose: each once broke a rule."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.jobs.statements import statement
from tests.simulation.checker import RECOVERY_SECONDS
from tests.simulation.clock import Process
from tests.simulation.fault_model import CALM, End, Fate, FaultModel
from tests.simulation.handlers import UNSERVED_TYPE
from tests.simulation.scenario import Simulation
from tests.simulation.simulator import Simulator


class Scripted(FaultModel):
    """No faults but those of the named statements."""

    def __init__(self, **fates: list[Fate]) -> None:
        super().__init__(random.Random(0))
        self.over = True
        self._fates = {statement(name).sql: list(some) for name, some in fates.items()}

    def fate(self, statement: str) -> Fate:
        fates = self._fates.get(statement)
        return fates.pop(0) if fates else CALM

    def survives(self) -> bool:
        return True


def slow(seconds: float) -> Fate:
    return Fate(seconds, 0.0, 0.0, End.WELL)


async def one_worker(simulation: Simulation, fault_model: FaultModel) -> None:
    simulation.server.fault_model = fault_model
    await simulation.start_node(whole=True)


async def to_its_end(simulation: Simulation, *, within_seconds: float = 60.0) -> None:
    await simulation.until_all_ended(within_seconds, "not all jobs ended")
    await simulation.until_others_ended()
    await simulation.stop_all()
    simulation.look_at_the_end()


def attempts(simulation: Simulation) -> list[int]:
    return [row.attempts for row in simulation.server.model.tables.jobs.values()]


def stand_still_at_the_next_claim(simulation: Simulation, *, leases: float) -> None:
    def stand_still(process: Process) -> None:
        simulation.server.on_claim = None
        node = next(node for node in simulation.nodes if node.process is process)
        seconds = leases * simulation.settings.lease_seconds
        simulation.others.append(asyncio.create_task(simulation.stall(node, seconds)))

    simulation.server.on_claim = stand_still


async def a_give_back_that_is_cut_off_is_carried_out_late(simulation: Simulation) -> None:
    """Seeds 285 and 758: it took the job from its own worker, which had claimed it again."""
    lost = Fate(0.0, 0.0, 0.0, End.CUT_AFTER)
    too_slow = slow(simulation.settings.database_command_timeout_seconds + 1.0)
    simulation.enqueue_canary(seconds=3.0)
    await one_worker(simulation, Scripted(CLAIM=[lost], RELEASE_LOST=[too_slow]))
    await to_its_end(simulation)
    assert simulation.checker.events["RELEASE_LOST"] == 2
    assert (attempts(simulation), len(simulation.checker.runs)) == ([1], 1)


async def a_process_stands_still_before_its_handler_begins(simulation: Simulation) -> None:
    """Seeds 982 and 998: the handler began under a lease long over, beside the next claim's."""
    # What comes after it is slower than the claim: heartbeat and release find another's lease.
    await one_worker(simulation, Scripted(EXTEND=[slow(1.0)], REQUEUE=[slow(0.1)]))

    stand_still_at_the_next_claim(simulation, leases=1.1)
    simulation.enqueue_canary()
    await to_its_end(simulation)
    # The stall cost an attempt, as a crash does.
    assert (attempts(simulation), len(simulation.checker.runs)) == ([2], 1)


async def a_round_of_the_leader_is_slow(simulation: Simulation) -> None:
    """Seed 1267: what nobody serves was not looked for in minutes, however long it had lasted."""
    slow_once = [slow(1.9)]
    script = Scripted(SERVED_TYPES=slow_once, FAIL_UNSERVED=slow_once, QUEUE_GAUGES=slow_once)
    await one_worker(simulation, script)
    grace = simulation.settings.unknown_type_grace_seconds
    for _ in range(2):
        simulation.enqueue_canary(job_type=UNSERVED_TYPE)
        await simulation.until_all_ended(2 * grace, "the leader does not come round")
    await to_its_end(simulation)


async def one_listing_is_slow(simulation: Simulation) -> None:
    """Seed 168: no lane that nobody told of was found for a minute after."""
    await one_worker(simulation, Scripted(LANES=[CALM, slow(1.5)]))
    await asyncio.sleep(2 * simulation.settings.poll_max_seconds)
    simulation.enqueue_canary()
    await to_its_end(simulation, within_seconds=2 * simulation.settings.poll_max_seconds)


async def a_worker_is_told_to_stop_as_a_claim_is_lost(simulation: Simulation) -> None:
    """Seed 528: what it took waited until the running jobs had ended, and its lease ended first."""
    simulation.settings = simulation.settings.model_copy(update={"shutdown_grace_seconds": 30.0})
    simulation.server.fault_model = Scripted()
    simulation.enqueue_canary(seconds=11.0)
    await simulation.start_node(whole=True, slots=2)
    while not simulation.checker.runs:  # noqa: ASYNC110
        await asyncio.sleep(0.1)  # of virtual time

    def lose_and_stop(process: Process) -> None:
        simulation.server.on_claim = None
        simulation.server.cut(lambda one: one.process is process and one.last == "CLAIM")
        simulation.stop(simulation.nodes[0])

    simulation.server.on_claim = lose_and_stop
    simulation.enqueue_canary()
    await asyncio.sleep(simulation.settings.poll_max_seconds + RECOVERY_SECONDS)
    assert simulation.checker.events["given back"] == 1
    assert not simulation.checker.runs_of[1][0].ended
    await simulation.start_node(whole=True)
    await to_its_end(simulation)
    assert (attempts(simulation), len(simulation.checker.runs)) == ([1, 1], 2)


@pytest.mark.parametrize(
    "scenario",
    [
        a_give_back_that_is_cut_off_is_carried_out_late,
        a_process_stands_still_before_its_handler_begins,
        a_round_of_the_leader_is_slow,
        one_listing_is_slow,
        a_worker_is_told_to_stop_as_a_claim_is_lost,
    ],
    ids=lambda scenario: scenario.__name__,
)
def test_a_scenario_that_once_broke_a_rule_breaks_none(
    simulator: Simulator, scenario: Callable[[Simulation], Coroutine[Any, Any, None]]
) -> None:
    simulator.run(1, scenario, max_lost_leases=3)
