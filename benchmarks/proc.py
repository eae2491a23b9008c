"""What Linux tells of a process in `/proc`; there is no such thing on other systems."""

import os
import platform
from pathlib import Path

MIB = 1024.0


def cpu_seconds(pid: int) -> float:
    """Processor time that the process took so far, its own and the kernel's for it."""
    # The name, in parentheses, may hold spaces: proc(5) counts the fields from 1.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = int(fields[14 - 3]), int(fields[15 - 3])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int | str = "self") -> float:
    """Memory that the process holds now."""
    return _status(pid, "VmRSS")


def peak_rss_mib(pid: int | str = "self") -> float:
    """The most memory that it held since it began, or since `forget_peak`.

    Not `getrusage`: its peak is handed down from the process that started this one.
    """
    return _status(pid, "VmHWM")


def forget_peak() -> None:
    """Count this process's peak from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def cpu_model() -> str:
    """What the machine's processors are called, as far as they tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _status(pid: int | str, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / MIB
    raise RuntimeError(f"/proc/{pid}/status tells no {name}")
