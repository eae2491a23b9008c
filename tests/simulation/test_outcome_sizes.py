"""Outcomes of any size, on a server that takes its time for large ones: all are recorded, soon."""

from collections import Counter
from typing import Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.jobs import NewJob, store
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.job import JobStatus
from service.jobs.worker.outbox import MAX_TIMEOUTS
from tests.simulation.fault_model import SLOW_BYTES_PER_SECOND
from tests.simulation.scenario import Simulation
from tests.simulation.simulator import Simulator
from tests.simulation.test_scenarios import Scripted

TIME_LIMIT: Final = 2.0
FITS: Final = int(TIME_LIMIT * SLOW_BYTES_PER_SECOND)
"""So many bytes are recorded in time."""

BATCHES: Final = st.lists(
    st.sampled_from(("return", "refused result", "permanent"))
    | st.integers(0, 2 * FITS).filter(lambda size: abs(size - FITS) > 1_000).map("{} bytes".format),
    min_size=1,
    max_size=60,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batch=BATCHES)
def test_outcomes_of_any_size_are_recorded_in_bounded_tries(
    simulator: Simulator, batch: list[str]
) -> None:
    async def scenario(simulation: Simulation) -> None:
        fault_model = simulation.server.fault_model = Scripted()
        fault_model.bytes_per_second = SLOW_BYTES_PER_SECOND
        # All of them run at once, and end at the same moment.
        jobs = [NewJob("work", [(behaviour, 1.0)], queue="a") for behaviour in batch]
        encoded = encode_jobs(jobs, max_payload_bytes=100_000)
        simulation.as_client(*store.enqueue.ENQUEUE.bind(**store.enqueue.arguments(encoded)))
        await simulation.start_node(whole=True, slots=len(batch))
        await simulation.until_all_ended(400.0, "not all outcomes were recorded")
        await simulation.stop_all()
        simulation.look_at_the_end()
        rows = simulation.server.model.tables.jobs
        assert [rows[n].status for n in sorted(rows)] == [_status(one) for one in batch]

    checker = simulator.run(
        1, scenario, database_command_timeout_seconds=TIME_LIMIT, claim_batch_size=200,
        settle_batch_size=200,
    )  # fmt: skip
    assert Counter(len(runs) for runs in checker.runs_of.values()) == {1: len(batch)}
    # Each try records something, or halves what the next one holds; what was recorded quickly
    # doubles it. And each job that is to blame costs a few of its own.
    blamed = sum(_status(one) is JobStatus.FAILED for one in batch)
    tries = 2 * len(batch) + 10 + blamed * (MAX_TIMEOUTS + 1)
    assert checker.events["FINISH"] + checker.failures["FINISH"] <= tries


def _status(behaviour: str) -> JobStatus:
    size = behaviour.removesuffix(" bytes")
    fits = int(size) <= FITS if size.isdigit() else behaviour == "return"
    return JobStatus.SUCCESS if fits else JobStatus.FAILED
