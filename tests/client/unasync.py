"""Make `finmind_client/client.py` of `async_client.py`, and others like it: one source for both clients.

`python -m tests.client.unasync` writes them; `make docs` does.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "finmind_client"
MODULES: Final = ("admin", "batches", "client", "events", "schedules")
"""Each is made of the one of that name with `async_` before it."""

WORDS: Final = (
    (r"^import asyncio\n(import time\n)?", "import time\n"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(Admin|Batches|Client|Iterator|Schedules)\b", r"\1"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\baclose\b", "close"),
    (r"\baread\b", "read"),
    (r"\baiter_bytes\b", "iter_bytes"),
    (r"\basync_(admin|batches|client|events|schedules)\b", r"\1"),
)


def target_of(module: str) -> Path:
    """The file that is made."""
    return PACKAGE / f"{module}.py"


def render(module: str) -> str:
    """The text of a module without asyncio."""
    _, _, text = (PACKAGE / f"async_{module}.py").read_text(encoding="utf-8").partition("\n\n")
    for pattern, words in WORDS:
        text = re.sub(pattern, words, text, flags=re.MULTILINE)
    first = f"Without asyncio. Made of `async_{module}.py`: change that, and run `make docs`."
    text = f'"""{first}"""\n\n{text}'
    for arguments in (("check", "--quiet", "--select", "I", "--fix"), ("format",)):
        text = _ruff(text, *arguments, "--stdin-filename", str(target_of(module)), "-")
    return text


def _ruff(text: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "ruff", *arguments]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=True, timeout=60
    ).stdout


if __name__ == "__main__":
    for module in MODULES:
        target_of(module).write_text(render(module), encoding="utf-8")
