"""A secret that is created on first use and kept in a file, for development."""

import contextlib
import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MIN_SECRET_BYTES: Final = 32

_log = logging.getLogger(__name__)


def kept_secret(path: Path) -> str:
    """The secret in the file at `path`. Creates it if the file is missing or cannot be trusted."""
    if not (kept := standing_secret(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent):
            # Another process may have created it since.
            if not (kept := standing_secret(path)):
                kept = _make(path)
    return kept


def standing_secret(path: Path) -> str | None:
    """The secret in the file at `path`, or None if the file is missing or others may know it."""
    try:
        return None if _fault(path) else path.read_text().strip()
    except FileNotFoundError:
        return None


def _make(path: Path) -> str:
    if path.exists() and (fault := _fault(path)):
        _log.warning("kept_secret_replaced", extra={"path": str(path), "reason": fault})
    else:
        _log.info("kept_secret_made", extra={"path": str(path)})
    made = secrets.token_hex(MIN_SECRET_BYTES)
    # Written to another file and renamed, so that a crash leaves no half-written secret.
    aside = path.with_name(f"{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.touch(mode=0o600)
    aside.write_text(made)
    aside.replace(path)
    return made


def _fault(path: Path) -> str | None:
    """Why the secret in the file must not be used."""
    state = path.stat()
    if stat.S_IMODE(state.st_mode) & 0o077:
        return f"others can access the file: its mode is {stat.S_IMODE(state.st_mode):o}, not 600"
    if state.st_uid != os.geteuid() != 0:
        return "the file belongs to another user"
    if state.st_size < MIN_SECRET_BYTES or len(path.read_text().strip()) < MIN_SECRET_BYTES:
        return f"it is shorter than {MIN_SECRET_BYTES} bytes"
    return None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Lock the directory against other processes. The lock ends with the process."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
