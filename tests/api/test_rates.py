"""`GET /admin/jobs/rates`: what ended in a window, for people and alerts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.jobs.maintenance.rates import KeptRates
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem

ENDED = """
INSERT INTO job_rate_deltas (at, queue, job_type, outcome, jobs, timings) VALUES
  ($1, 'billing', 'invoice', 'SUCCESS', 3, '{148,148,286}'),
  ($1, 'billing', 'invoice', 'RETRIED', 1, '{660}'),
  ($1, 'mail', 'send', 'CANCELLED', 2, NULL)"""


async def ask(client: httpx.AsyncClient, auth: Auth, **query: str) -> Any:
    answer = await client.get("/admin/jobs/rates", params=query, headers=auth("viewer"))
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture
async def ended(app: FastAPI) -> datetime:
    """When some jobs ended."""
    at = datetime.now(UTC) - timedelta(minutes=1)
    link = app.state.service.database.link()
    await link.fetch(ENDED.replace("job_rate_deltas", "finmind_jobs.job_rate_deltas"), at)
    await KeptRates(link, app.state.service.settings).fold()
    await link.close()
    return at


@pytest.mark.parametrize(("window", "steps"), [("1h", 60), ("24h", 24), ("7d", 56)])
async def test_each_window_tells_what_ended_step_by_step_and_in_all(
    client: httpx.AsyncClient, auth: Auth, ended: datetime, window: str, steps: int
) -> None:
    found = await ask(client, auth, window=window)
    assert len(found["points"]) == steps
    assert found["points"][0]["at"] == found["since"]
    assert sum(point["succeeded"] for point in found["points"]) == 3
    total = found["total"]
    assert (total["succeeded"], total["retried"], total["cancelled"]) == (3, 1, 2)
    assert total["failure_share"] == 0.25
    assert 0.08 < total["run_time"]["p50"] <= 0.1
    assert [(one["name"], one["succeeded"]) for one in found["by_queue"]] == [
        ("billing", 3), ("mail", 0),
    ]  # fmt: skip
    assert [one["name"] for one in found["by_type"]] == ["invoice", "send"]
    assert found["by_type"][1]["run_time"] is None


async def test_one_queue_or_type_alone_can_be_asked_for(
    client: httpx.AsyncClient, auth: Auth, ended: datetime
) -> None:
    assert (await ask(client, auth, queue="mail"))["total"]["cancelled"] == 2
    assert (await ask(client, auth, queue="mail"))["total"]["succeeded"] == 0
    by_type = await ask(client, auth, job_type="invoice")
    assert by_type["total"]["succeeded"] == 3
    assert [one["name"] for one in by_type["by_queue"]] == ["billing"]
    both = await ask(client, auth, job_type="invoice", queue="mail")
    assert both["total"]["succeeded"] == 0


async def test_nothing_counted_is_zeros(client: httpx.AsyncClient, auth: Auth) -> None:
    found = await ask(client, auth)
    assert found["total"]["succeeded"] == 0
    assert found["total"]["failure_share"] is None
    assert (found["by_queue"], found["by_type"]) == ([], [])


@pytest.mark.parametrize("query", [{"window": "1y"}, {"windows": "1h"}, {"queue": "q" * 101}])
async def test_what_is_not_a_window_is_refused(
    client: httpx.AsyncClient, auth: Auth, query: dict[str, str]
) -> None:
    answer = await client.get("/admin/jobs/rates", params=query, headers=auth("viewer"))
    assert_problem(answer, 422)


async def test_the_statistics_tell_the_rates_of_the_last_hour(
    client: httpx.AsyncClient, auth: Auth, ended: datetime
) -> None:
    answer = await client.get("/admin/jobs/stats", headers=auth("viewer"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["last_hour"] == (await ask(client, auth))["total"]
    assert answer.json()["last_hour"]["failure_share"] == 0.25
