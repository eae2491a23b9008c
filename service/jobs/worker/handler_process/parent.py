"""What ties a process of handlers to its worker: it does not outlive it, and dies before it."""

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
OOM_SCORE: Final = "500"
"""Added to the score by which the kernel picks what to kill: half of all memory."""


def die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, where it can; exit if that is gone already.

    Linux can, also while a handler is in native code. Elsewhere the end of the pipe is all that tells.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def offer_to_die_first() -> None:
    """Have the kernel pick this process, not its worker, where memory runs out."""
    with contextlib.suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)


def leave_signals_to_parent() -> None:
    """Run on at the signals that end a worker: it decides when its handlers end.

    Some service managers send them to all processes of a service. By a handler that does nothing,
    which programs that are started from here do not inherit, as they would `SIG_IGN`.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
