"""A process without memory says nothing of the jobs that it runs: their attempts fail, no more."""

from typing import Any

import pytest

from service.jobs import Registry
from service.jobs.core.encoding import dump_json
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until_failed_once


class Hoard(dict[str, Any]):
    """A value that takes memory that is not there to be written."""

    def items(self) -> Any:
        raise MemoryError


def test_a_value_that_finds_no_memory_is_not_refused_for_what_it_is() -> None:
    with pytest.raises(MemoryError):
        dump_json(Hoard(a=1), what="result", max_bytes=1000)


async def test_an_attempt_that_ends_without_memory_is_retried(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=3)
    async def handle(payload: Any) -> Any:
        return Hoard(a=1)

    job_id = await put("mail")
    await start_worker()
    row = await until_failed_once(sql, job_id)
    assert (row["status"], row["attempts"]) == ("PENDING", 1)
    assert "MemoryError" in row["last_error"]
