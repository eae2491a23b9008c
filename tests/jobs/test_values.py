"""Payloads and results that JSON lacks: stored as pydantic writes them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from service.jobs import Registry
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until_ended


@dataclass
class Invoice:
    id: UUID
    due: datetime


INVOICE = Invoice(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC))
AS_JSON = {"id": "00000000-0000-0000-0000-000000000007", "due": "2026-01-02T00:00:00Z"}


async def test_dataclasses_times_and_uuids_travel_as_pydantic_writes_them(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    seen = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> Any:
        seen.append(payload)
        return {"invoice": INVOICE, "by_id": {INVOICE.id: INVOICE.due}}

    job_id = await put("mail", {"at": INVOICE.due, "invoices": [INVOICE]})
    await start_worker()
    job = await until_ended(sql, job_id)
    assert seen == [{"at": AS_JSON["due"], "invoices": [AS_JSON]}]
    assert (job["status"], job["attempts"]) == ("SUCCESS", 1)
    assert job["result"] == {"invoice": AS_JSON, "by_id": {AS_JSON["id"]: AS_JSON["due"]}}
