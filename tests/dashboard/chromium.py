"""Finds a Chromium, and starts it."""

import os
import shutil
from typing import Final

from playwright.async_api import Browser, Playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""The same as in chromium.sh, which installs one."""

MISSING: Final = (
    "no chromium: install it (Debian: apt-get install chromium), or name one by CHROMIUM=/path"
)


def executable() -> str | None:
    """The browser to test with: `CHROMIUM`, or the first that is installed."""
    for name in (os.environ.get("CHROMIUM"), *NAMES):
        if name and (found := shutil.which(name)):
            return found
    return None


async def launch(playwright: Playwright, path: str) -> Browser:
    """Start a browser without a window; it ends with this process."""
    # In a container /dev/shm is small, and a page that fills it crashes.
    arguments = ["--disable-dev-shm-usage", "--disable-gpu"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to sandbox as root
    return await playwright.chromium.launch(executable_path=path, args=arguments, timeout=30_000)
