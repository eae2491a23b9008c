"""The dashboard behind a proxy that serves it under a path of its own, taken off or left."""

import re
from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from service.auth.principal import Role
from service.settings import Settings
from tests.pages.signing_in import browser
from tests.pages.test_policies import PAGES

pytestmark = pytest.mark.whole

ROOT = "/jobs-service"
EVENTS = "/dashboard/events"
"""No page, and without an end."""


@pytest.fixture
def api_settings(make_settings: Callable[..., Settings], pg_dsn: str) -> Settings:
    return make_settings(database_url=SecretStr(pg_dsn), root_path=ROOT)


@pytest.mark.parametrize("prefix", ["", ROOT], ids=["taken-off", "left"])
async def test_every_link_and_form_of_every_page_leads_through_the_proxy(
    app: FastAPI, prefix: str
) -> None:
    paths = {path for method, path in PAGES if method == "GET" and "{" not in path} - {EVENTS}
    assert paths
    async with await browser(app, Role.ADMIN) as client:
        for path in paths:
            page = await client.get(f"{prefix}{path}")
            # One that must be told more than its path refuses on a page, with the same links around.
            assert page.status_code in {200, 422}, path
            targets = re.findall(r'\b(?:href|src|action|data-root)="([^"#?]*)', page.text)
            wrong = [one for one in targets if one and not one.startswith(ROOT)]
            assert wrong == [], path


async def test_who_is_not_signed_in_is_led_to_the_sign_in_under_the_path(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/dashboard")
    assert answer.headers["location"] == f"{ROOT}/dashboard/sign-in?next=%2Fdashboard"
