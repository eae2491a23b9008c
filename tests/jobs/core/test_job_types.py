"""What is set for a job type, and where the process finds it."""

import pytest

from service.jobs import Backoff, Registry
from service.jobs.core.job_types import DEFAULTS, JobTypePolicy
from service.settings import Settings


@pytest.mark.parametrize(("of_job", "of_type", "expected"), [(0, 5, 0), (None, 0, 0), (None, 5, 5)])
def test_retries_are_the_jobs_own_else_its_types(
    of_job: int | None, of_type: int, expected: int, settings: Settings
) -> None:
    assert JobTypePolicy(max_retries=of_type).retries_of(of_job, settings) == expected


def test_a_type_that_sets_nothing_has_the_services_values(settings: Settings) -> None:
    assert DEFAULTS.retries_of(None, settings) == settings.default_max_retries
    assert DEFAULTS.timeout_of(None, settings) == settings.default_timeout_seconds


def test_a_registry_enters_the_policies_of_its_types_in_its_table() -> None:
    table: dict[str, JobTypePolicy] = {}

    @Registry(table).handler("mail", timeout=5, backoff=Backoff(base_seconds=1), queue="mails")
    async def handle(payload: object) -> None: ...

    expected = JobTypePolicy(timeout_seconds=5, backoff=Backoff(base_seconds=1), queue="mails")
    assert table == {"mail": expected}
