"""The demo's jobs: whoever looks at them sees every kind."""

from collections import Counter

import pytest

from service.demo import MIX, MIX_SIZE, mix


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("jobs", [len(MIX), 30, 200])
def test_every_mix_holds_each_kind(jobs: int, seed: int) -> None:
    assert {job.job_type for job in mix(jobs, seed=seed)} == set(MIX)


def test_each_twenty_jobs_hold_each_kind_in_its_share() -> None:
    types = [job.job_type for job in mix(10 * MIX_SIZE, seed=7)]
    for first in range(0, len(types), MIX_SIZE):
        assert Counter(types[first : first + MIX_SIZE]) == MIX


def test_two_mixes_differ_in_their_order() -> None:
    first, second = ([job.job_type for job in mix(200, seed=seed)] for seed in (1, 2))
    assert first != second
