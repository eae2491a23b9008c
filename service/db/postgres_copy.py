"""PostgreSQL's programs where every user can enter: a copy, if they are installed elsewhere.

They do not run as root, and the user that runs them instead cannot enter a private directory such as
/root. That directory is not opened to it: the programs, which are public, are copied.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

BASE: Final = Path("/var/tmp")  # noqa: S108  # nosec B108 - what stands there is used only if root made it
"""Kept across restarts of the machine, so that the copy is made once."""


def public_copy(programs: Path) -> Path:
    """The same programs in a directory that everybody can enter and only root can write.

    Args:
        programs: the folder of the programs in their package, whose libraries lie beside that.

    Raises:
        OSError: it cannot be created, or another user created a directory of that name.
    """
    site = programs.parents[2]
    marks = f"{programs}:{(programs / 'postgres').stat().st_mtime_ns}"
    digest = hashlib.sha256(marks.encode()).hexdigest()[:16]
    target = BASE / f"finmind-jobs-postgres-{digest}"
    if not target.exists():
        made = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=BASE))
        try:
            package = programs.parent.relative_to(site)
            shutil.copytree(programs.parent, made / package, symlinks=True)
            libraries = f"{package.parts[0]}.libs"
            if (site / libraries).is_dir():
                shutil.copytree(site / libraries, made / libraries, symlinks=True)
            _open(made)
            made.rename(target)
        except OSError:
            shutil.rmtree(made, ignore_errors=True)
            if not target.exists():  # else another process was first
                raise
    state = target.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise PermissionError(f"{target} is not a directory that root alone may write")
    return target / programs.relative_to(site)


def _open(directory: Path) -> None:
    """Let everybody read all that is there, and run what its owner may run."""
    directory.chmod(0o755)
    for path in directory.rglob("*"):
        if not path.is_symlink():
            owner = path.stat().st_mode & 0o700
            path.chmod(0o755 if path.is_dir() or owner & 0o100 else 0o644)
