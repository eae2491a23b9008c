"""A service of its own, for the generated clients to call."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.auth.principal import Role
from service.auth.tokens import make_token

ROOT: Final = Path(__file__).parents[2]
SECRET: Final = "a-secret-of-the-generated-clients"
START_SECONDS: Final = 60.0


@contextmanager
def served() -> Iterator[Mapping[str, str]]:
    """Serve on a free port with an own PostgreSQL; what a client's environment says of it.

    Raises:
        RuntimeError: it has not begun to serve in a minute.
    """
    with tempfile.TemporaryDirectory(prefix="finmind-openapi-") as directory:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "DATA_DIR": directory,
            "PORT": "0",
            "JWT_SECRET": SECRET,
            "HANDLER_MODULES": "service.demo",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        token = make_token(SECRET, Role.ADMIN, subject="openapi", hours=1)
        try:
            yield {"FINMIND_URL": _url(process), "FINMIND_TOKEN": token}
        finally:
            process.terminate()
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()


def _url(process: "subprocess.Popen[str]") -> str:
    """Where it serves, once it does; what it says after that is read on, so that it can go on."""
    said: list[str] = []
    found: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not found:
                said.append(line)
            if match := re.search(r"FinMind Jobs +(http://\S+)", line):
                found.append(match[1])
                ready.set()
        ready.set()  # it has ended

    threading.Thread(target=read, daemon=True).start()
    began = time.monotonic()
    ready.wait(START_SECONDS)
    if not found:
        seconds = time.monotonic() - began
        raise RuntimeError(
            f"The service did not serve in {seconds:.0f} s:\n{''.join(said)[-2000:]}"
        )
    return found[0]
