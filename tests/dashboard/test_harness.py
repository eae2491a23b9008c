"""The harness notices what these tests are to notice."""

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.dashboard import chromium
from tests.dashboard.conftest import OpenPage, settled
from tests.dashboard.looks import axe_findings
from tests.dashboard.trouble import Trouble

SCRIPTS = [
    ("console.error('broken')", "console error: broken"),
    ("console.warn('odd')", "console warning: odd"),
    ("setTimeout(() => { throw new Error('thrown') })", "page error: thrown"),
    ("fetch('/nowhere')", "answer: 404 to GET .*/nowhere"),
    ("fetch('http://127.0.0.1:9').catch(() => 0)", "policy: connect-src refused"),
    ("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(1)>')",
     "policy: script-src-attr refused inline"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "noticed"), SCRIPTS)
async def test_trouble_in_a_page_is_noticed(
    open_page: OpenPage, trouble: Trouble, script: str, noticed: str
) -> None:
    page = await open_page("/dashboard/sign-in", role=None)
    await page.evaluate(f"() => {{ {script} }}")
    async with asyncio.timeout(15):
        while not any(re.match(noticed, one) for one in trouble.found):
            await settled(page)
    trouble.expect(noticed)
    await page.context.close()
    trouble.found.clear()  # a refusal is also told on the console


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_a_page_is_opened_by_role(open_page: OpenPage, role: str) -> None:
    page = await open_page(role=role)
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()


async def test_without_scripts_a_page_is_opened_too(open_page: OpenPage) -> None:
    page = await open_page(java_script_enabled=False)
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()


async def test_what_keeps_people_out_is_found(open_page: OpenPage) -> None:
    page = await open_page("/dashboard/sign-in", role=None)
    await page.evaluate(
        "() => document.body.insertAdjacentHTML('beforeend', '<input id=nameless><button></button>')"
    )
    found = await axe_findings(page)
    assert [one for one in found if one.startswith("label: #nameless: ")]
    assert [one for one in found if one.startswith("button-name: ")]


def test_trouble_that_did_not_come_is_not_expected() -> None:
    with pytest.raises(AssertionError, match="no 'refused'"):
        Trouble().expect("refused")


def test_a_named_browser_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "browser"
    named.touch(mode=0o755)
    monkeypatch.setenv("CHROMIUM", str(named))
    assert chromium.executable() == str(named)


def test_without_a_browser_none_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium.executable() is None
