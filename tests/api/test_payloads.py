"""`POST /jobs` refuses what the handler's own model would refuse, where it is known."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, SecretStr, field_validator

from service.app import create_app
from service.jobs.core.job_types import policies
from service.jobs.handlers.registry import registry
from service.settings import Settings
from tests.api.conftest import Auth


class Invoice(BaseModel, strict=True):
    """A payload."""

    number: int
    due: datetime

    @field_validator("number")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value == 13:
            raise ZeroDivisionError
        return value


GOOD = {"number": 7, "due": "2026-03-01T09:00:00Z"}


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    async def handle(payload: Invoice) -> None:
        raise AssertionError

    registry.handler("test.invoice", payload_model=Invoice)(handle)
    yield
    registry._specs.pop("test.invoice")
    policies.pop("test.invoice")


async def post(client: httpx.AsyncClient, auth: Auth, payload: Any, **headers: str) -> Any:
    job = {"job_type": "test.invoice", "payload": payload}
    return await client.post("/jobs", json=job, headers=auth("service") | headers)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["plain", "keyed"])
async def test_a_payload_that_the_model_refuses_is_422_with_its_errors(
    client: httpx.AsyncClient, auth: Auth, headers: dict[str, str]
) -> None:
    answer = await post(client, auth, {"number": "seven"}, **headers)
    assert answer.status_code == 422
    fields = {one["field"] for one in answer.json()["errors"]}
    assert fields == {"body.payload.number", "body.payload.due"}
    assert "seven" not in answer.text


async def test_a_payload_that_the_model_takes_from_json_is_taken(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    assert (await post(client, auth, GOOD)).status_code == 201


async def test_a_batch_names_the_job_and_enqueues_none(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    jobs = [{"job_type": "test.invoice", "payload": one} for one in (GOOD, {"number": 1})]
    answer = await client.post("/jobs/batch", json={"jobs": jobs}, headers=auth("service"))
    assert answer.status_code == 422
    assert [one["field"] for one in answer.json()["errors"]] == ["body.jobs.1.payload.due"]


async def test_a_model_that_breaks_leaves_the_payload_to_its_worker(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    assert (await post(client, auth, GOOD | {"number": 13})).status_code == 201


async def test_the_check_can_be_left_to_workers(
    make_settings: Callable[..., Settings], pg_dsn: str, auth: Auth
) -> None:
    settings = make_settings(database_url=SecretStr(pg_dsn), check_payloads=False)
    app = create_app(settings, run_worker=False)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service.test") as client,
    ):
        assert (await post(client, auth, {})).status_code == 201
