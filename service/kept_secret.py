"""A secret made on first use and kept in a file: for development, where nobody sets one."""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def kept_secret(path: Path) -> str:
    """The secret in the file at `path`, made where there is none."""
    if not (kept := _secret_in(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            # Another process may have made it since.
            if not (kept := _secret_in(path)):
                kept = secrets.token_hex(32)
                # Aside and renamed: a crash in between leaves no half of a secret.
                aside = path.with_name(f"{path.name}.new")
                aside.unlink(missing_ok=True)
                aside.touch(mode=0o600)
                aside.write_text(kept)
                aside.replace(path)
    return kept


def _secret_in(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory against other processes; the lock ends with the process."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
