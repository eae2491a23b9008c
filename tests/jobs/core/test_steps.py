"""Rules of steps: how long they wait."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from service.jobs.core.steps import StepError, seconds_until, wait_seconds


class NoOffset(tzinfo):
    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


SOON = datetime(2030, 1, 1, tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
LAST = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))


@pytest.mark.parametrize(
    "duration", [-1, float("nan"), float("inf"), 10**400, "soon", None, timedelta(days=367)]
)
def test_a_wait_that_no_step_can_have_is_refused_for_good(duration: Any) -> None:
    with pytest.raises(StepError, match="from 0 to 366 days"):
        wait_seconds(duration, what="The sleep")


@pytest.mark.parametrize(
    "moment",
    [
        LAST,
        SOON.replace(tzinfo=None),
        SOON.replace(tzinfo=NoOffset()),
        5,
        None,
        "2030-01-01T00:00Z",
    ],
)
def test_a_moment_that_no_sleep_can_end_at_is_refused_for_good(moment: Any) -> None:
    with pytest.raises(StepError):
        seconds_until(moment)


@pytest.mark.parametrize("moment", [FIRST, datetime.now(UTC)])
def test_a_moment_that_is_past_is_not_waited_for(moment: datetime) -> None:
    assert seconds_until(moment) == 0
