"""Make `finmind_client/client.py` of `async_client.py`: one source for both clients.

`python -m tests.client.unasync` writes it; `make docs` does.
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "finmind_client"
SOURCE: Final = PACKAGE / "async_client.py"
TARGET: Final = PACKAGE / "client.py"

FIRST_LINE: Final = (
    '"""The client without asyncio. Made of `async_client.py`: change that, and run `make docs`."""'
)

WORDS: Final = (
    (r"^import asyncio\n", ""),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(Client|Admin|Iterator)\b", r"\1"),
    (r"\bAsyncBaseTransport\b", "BaseTransport"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\baclose\b", "close"),
)


def render() -> str:
    """The text of the client without asyncio."""
    _, _, text = SOURCE.read_text(encoding="utf-8").partition("\n\n")
    text = f"{FIRST_LINE}\n\n{text}"
    for pattern, words in WORDS:
        text = re.sub(pattern, words, text, flags=re.MULTILINE)
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, check=True, timeout=60
    ).stdout


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
