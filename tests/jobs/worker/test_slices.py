"""A sweep takes the whole of a lane in one step, or slices of it where that is slow."""

from itertools import pairwise

import pytest

from service.jobs.worker.plan.slices import (
    FIRST_SPAN_SECONDS,
    MIN_SPAN_SECONDS,
    QUICK_STEP_SECONDS,
    SLOW_SPAN_SECONDS,
    SLOW_STEP_SECONDS,
    WHOLE,
    Slices,
)

NOON = 1_800_000_000.0
CHEAP, FAIR, SLOW = QUICK_STEP_SECONDS / 2, SLOW_STEP_SECONDS / 2, SLOW_STEP_SECONDS * 100


def new_sweep() -> Slices:
    sweep = Slices()
    sweep.saw(NOON)
    return sweep


def test_the_first_sweep_is_a_slice() -> None:
    assert new_sweep().slice == (NOON - FIRST_SPAN_SECONDS, WHOLE)


def test_a_cheap_sweep_takes_everything_after_its_first_round() -> None:
    sweep = new_sweep()
    assert len(round_of(sweep, CHEAP)) < 18
    for _ in range(3):
        assert sweep.slice == (-WHOLE, WHOLE)
        sweep.stepped(CHEAP, full=False)


def test_a_slow_sweep_goes_on_in_slices_from_the_newest_down() -> None:
    sweep = new_sweep()
    round_of(sweep, CHEAP)
    sweep.stepped(SLOW, full=False)
    low, below = sweep.slice
    assert (low, below) == (NOON - SLOW_SPAN_SECONDS, WHOLE)
    sweep.stepped(FAIR, full=False)
    assert sweep.slice == (low - SLOW_SPAN_SECONDS, low)


def round_of(sweep: Slices, took: float) -> list[tuple[float, float]]:
    """The slices from the next one down to the oldest, each step of which takes so long."""
    slices: list[tuple[float, float]] = []
    while not slices or slices[-1][0] != -WHOLE:
        slices.append(sweep.slice)
        sweep.stepped(took, full=False)
        assert len(slices) <= 1_300
    return slices


@pytest.mark.parametrize("took", [CHEAP, FAIR, SLOW])
def test_slices_leave_no_gap_and_come_to_the_oldest_whatever_they_take(took: float) -> None:
    slices = round_of(new_sweep(), took)
    assert slices[0][1] == WHOLE
    for (low, _), (_, below) in pairwise(slices):
        assert low == below


def test_a_round_begins_as_the_last_one_did_and_not_with_the_whole() -> None:
    sweep = new_sweep()
    sweep.stepped(SLOW, full=False)
    round_of(sweep, FAIR)
    assert sweep.slice == (NOON - FIRST_SPAN_SECONDS / 10, WHOLE)


def test_a_cheap_round_ends_the_slices() -> None:
    sweep = new_sweep()
    round_of(sweep, SLOW)
    round_of(sweep, CHEAP)
    assert sweep.slice == (-WHOLE, WHOLE)


def test_an_empty_stretch_is_skipped_and_changes_nothing_else() -> None:
    sweep = new_sweep()
    sweep.skip_to(NOON - 86_400)
    low, below = sweep.slice
    assert below == NOON - 86_400
    assert below - low == pytest.approx(0.02 * 86_400)  # so far down: no less
    sweep.skip_to(-WHOLE)
    assert sweep.slice == (-WHOLE, WHOLE)


def test_a_first_round_of_cheap_steps_ends_the_slices() -> None:
    sweep = new_sweep()
    assert len(round_of(sweep, FAIR)) < 18
    assert sweep.slice == (-WHOLE, WHOLE)


def test_a_slice_with_more_in_it_is_taken_again() -> None:
    sweep = new_sweep()
    _, below = sweep.slice
    sweep.stepped(FAIR, full=True)
    assert sweep.slice[1] == below


@pytest.mark.parametrize("took", [SLOW, SLOW * 1000])
def test_slices_shrink_while_they_are_slow_and_never_to_nothing(took: float) -> None:
    sweep = new_sweep()
    for _ in range(50):
        sweep.stepped(took, full=True)
    low, below = sweep.slice
    assert min(below, NOON) - low == pytest.approx(MIN_SPAN_SECONDS, abs=1e-6)


def test_what_was_seen_last_counts_by_the_clock_of_the_database() -> None:
    sweep = new_sweep()
    sweep.saw(NOON + 5)
    sweep.saw(NOON - 5)
    assert sweep.slice == (NOON + 5 - FIRST_SPAN_SECONDS, WHOLE)
