"""How a page looks: what axe-core finds in it, in both themes, and whether it fits its window."""

from typing import Any, Final, Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page

RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OF_COLOURS: Final = ["color-contrast", "link-in-text-block"]
"""Rules whose findings depend on the theme."""

Theme = Literal["light", "dark"]

WINDOWS: Final = pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1600, "dark")])
"""The windows in which pages are opened; `misfits` tries what lies between them."""

BETWEEN: Final = 900
WIDER: Final = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
DARK: Final = "() => matchMedia('(prefers-color-scheme: dark)').matches"


async def misfits(page: Page) -> list[str]:
    """What is wrong with how a page looks, a line each; it is left as it was.

    All rules are tried in the page's own theme, those of colours in the other one as well. A page is loaded once
    for all that: loading it takes longer.
    """
    found = await axe_findings(page)
    own: Theme = "dark" if await page.evaluate(DARK) else "light"
    await _change_theme(page, "light" if own == "dark" else "dark")
    found += await axe_findings(page, OF_COLOURS)
    await _change_theme(page, own)
    window = page.viewport_size
    assert window is not None
    for width in (BETWEEN, window["width"]):
        await page.set_viewport_size({"width": width, "height": window["height"]})
        if (excess := await page.evaluate(WIDER)) > 0:
            found.append(f"{excess} px wider than a window of {width}")
    return found


async def _change_theme(page: Page, theme: Theme) -> None:
    # Without motion: colours on their way from one theme to the other have too little contrast.
    await page.emulate_media(color_scheme=theme, reduced_motion="reduce")


async def axe_findings(page: Page, rules: list[str] = RULES) -> list[str]:
    """What is wrong, a line each: rule, where, and why. Empty where nothing is."""
    # In a world of its own: the page's policy forbids a script of ours, and its scripts see none.
    session = await page.context.new_cdp_session(page)
    try:
        tree = await session.send("Page.getFrameTree")
        world = await session.send(
            "Page.createIsolatedWorld",
            {"frameId": tree["frameTree"]["frame"]["id"], "worldName": "axe"},
        )
        run = f"axe.run(document, {{resultTypes: ['violations'], runOnly: {rules}}})"
        await _evaluate(session, world, AXE_SCRIPT)
        results = await _evaluate(session, world, f"{run}.then((found) => found.violations)")
    finally:
        await session.detach()
    return [
        f"{rule['id']}: {' '.join(map(str, node['target']))}: {_reason(node)}"
        for rule in results
        for node in rule["nodes"]
    ]


async def _evaluate(session: Any, world: dict[str, Any], script: str) -> Any:
    answer = await session.send(
        "Runtime.evaluate",
        {
            "expression": script,
            "contextId": world["executionContextId"],
            "awaitPromise": True,
            "returnByValue": True,
        },
    )
    assert "exceptionDetails" not in answer, answer["exceptionDetails"]
    return answer["result"].get("value")


def _reason(node: dict[str, Any]) -> str:
    return "; ".join(
        one["message"] for kind in ("any", "all", "none") for one in node.get(kind, [])
    )
