"""A session belongs to the database, and not to the process that began it."""

from pathlib import Path

import httpx
import pytest

from service.dashboard.access import COOKIE
from tests.pages.test_sign_in import token
from tests.processes.fleet import Fleet

pytestmark = pytest.mark.whole


async def test_three_processes_share_sessions_and_sign_outs(tmp_path: Path, pg_dsn: str) -> None:
    fleet = Fleet(tmp_path)
    try:
        first, second, third = await fleet.start(3, pg_dsn)
        async with httpx.AsyncClient(headers={"sec-fetch-site": "same-origin"}) as visitor:
            answer = await visitor.post(
                f"{first.url}/dashboard/sign-in", data={"credential": token("viewer")}
            )
            cookie = {"cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}

            async def statuses() -> list[int]:
                pages = [
                    await visitor.get(f"{one.url}/dashboard", headers=cookie)
                    for one in (first, second, third)
                ]
                return [page.status_code for page in pages]

            assert await statuses() == [200, 200, 200]
            await visitor.post(
                f"{second.url}/dashboard/sign-out", data={"everywhere": "1"}, headers=cookie
            )
            assert await statuses() == [303, 303, 303]
    finally:
        fleet.stop()
