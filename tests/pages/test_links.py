"""Links between pages find what they name, whatever it is called."""

from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from service.dashboard.links import FAILED, group_href, jobs_href, queue_href
from service.jobs.core.job import JobStatus
from service.jobs.core.search import Search

ODD = ["a", "a b", 'say "so"', "x:y", "a,b", "-1", "<b>", "50%", "é", "&q=2", "a/b"]


@pytest.mark.parametrize("name", ODD)
def test_a_link_reads_as_it_was_written(name: str) -> None:
    (text,) = parse_qs(urlsplit(jobs_href(queue=name, status=FAILED)).query)["q"]
    found = Search.parse(text).filters(datetime.now(UTC))
    assert found.queue == name
    assert found.statuses == {JobStatus.FAILED, JobStatus.DEAD_LETTER}
    assert parse_qs(urlsplit(queue_href(name)).query)["name"] == [name]
    assert "/" not in group_href(name).removeprefix("/dashboard/dead-letters/")
