"""Accessibility: what axe-core finds in a page."""

from typing import Any, Final

from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import Page

RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


async def axe_findings(page: Page) -> list[str]:
    """What is wrong, a line each: rule, where, and why. Empty where nothing is."""
    # In a world of its own: the page's policy forbids a script of ours, and its scripts see none.
    session = await page.context.new_cdp_session(page)
    try:
        tree = await session.send("Page.getFrameTree")
        world = await session.send(
            "Page.createIsolatedWorld",
            {"frameId": tree["frameTree"]["frame"]["id"], "worldName": "axe"},
        )
        run = f"axe.run(document, {{resultTypes: ['violations'], runOnly: {RULES}}})"
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
