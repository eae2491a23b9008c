"""What a browser is shown when a page fails in a way that nobody expected."""

import pytest
from fastapi import Depends, FastAPI

from service.auth.dependencies import public
from service.auth.principal import Role
from service.dashboard.route import page_router
from tests.api.conftest import Auth
from tests.pages.signing_in import browser

pytestmark = pytest.mark.whole


async def test_a_failure_is_a_page_with_the_request_id_and_no_details(
    app: FastAPI, auth: Auth, caplog: pytest.LogCaptureFixture
) -> None:
    router = page_router()

    @router.get("/broken", dependencies=[Depends(public)])
    async def broken() -> None:
        raise RuntimeError("postgresql://user:hunter2@db.internal")

    app.router.routes[:0] = router.routes
    async with await browser(app, Role.VIEWER) as client:
        answer = await client.get("/dashboard/broken")
        metrics = await client.get("/metrics", headers=auth("admin"))
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-request-id"] in answer.text
    assert "hunter2" not in answer.text
    assert "RuntimeError" not in answer.text
    failures = [
        record.msg
        for record in caplog.records
        if isinstance(record.msg, dict) and record.msg.get("event") == "request_failed"
    ]
    assert [failure["request_id"] for failure in failures] == [answer.headers["x-request-id"]]
    assert failures[0]["exc_info"] is True
    assert 'handler="/dashboard/broken",method="GET",status="5xx"} 1.0' in metrics.text
