"""Commands of the service, run as people and orchestrators run them: real processes."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
COMMAND = (sys.executable, "-m", "service")

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "Running"]


class Running:
    """A long-running command."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.seen = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read what it says until `pattern` is there; the test's timeout bounds it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"ended without {pattern!r}:\n{self.seen}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal; the exit code."""
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=40)
        self.seen += rest
        return self.process.returncode


def postgres_of(tmp_path: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if str(tmp_path / "data" / "postgres") in (process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def postgres_ended(tmp_path: Path) -> bool:
    """Whether the embedded server is gone, in a moment: it removes its pid file before it exits."""
    _, alive = psutil.wait_procs(postgres_of(tmp_path), timeout=5)
    return not alive
