"""The signals that end the service: it keeps its handlers, whatever modules it loads."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ending() -> tuple[signal.Signals, ...]:
    """Those that end this process: not SIGHUP where it was started to outlive its terminal."""
    outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup
    return tuple(number for number in ENDING if not (outlives and number is signal.SIGHUP))


@contextlib.contextmanager
def kept() -> Iterator[list[str]]:
    """Restore handlers that are changed meanwhile; afterwards the list has the signals concerned."""
    before = {number: signal.getsignal(number) for number in ENDING}
    changed: list[str] = []
    try:
        yield changed
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
                changed.append(number.name)
