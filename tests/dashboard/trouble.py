"""Collects what goes wrong in a page without being seen: errors, refusals of its policy, failed requests."""

import re
from typing import Any

from playwright.async_api import BrowserContext, ConsoleMessage, Request, Response

VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => window.reportViolation(
  `${event.effectiveDirective} refused ${event.blockedURI} ${event.sample}`));
"""


class Trouble:
    """What went wrong in the pages of one test. None may be left at its end."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def expect(self, pattern: str) -> None:
        """Strike out what matches: the test makes it happen. Fails if nothing matches."""
        left = [one for one in self.found if not re.search(pattern, one)]
        assert len(left) < len(self.found), f"no {pattern!r} in {self.found}"
        self.found = left

    async def watch(self, context: BrowserContext) -> None:
        """Collect from every page of the context, from now on."""
        context.on("console", self._console)
        context.on("weberror", lambda error: self._add("page error", error.error))
        context.on("requestfailed", self._failed)
        context.on("response", self._answered)
        await context.expose_function("reportViolation", lambda text: self._add("policy", text))
        await context.add_init_script(VIOLATIONS)

    def _add(self, kind: str, what: Any) -> None:
        self.found.append(f"{kind}: {what}")

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._add(f"console {message.type}", message.text)

    def _failed(self, request: Request) -> None:
        # Aborted: the page was left, or closed its stream of events. Nobody waits for that answer.
        if request.failure != "net::ERR_ABORTED":
            self._add("request", f"{request.method} {request.url} {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self._add("answer", f"{response.status} to {response.request.method} {response.url}")
