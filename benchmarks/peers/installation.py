"""Installs the peers into `.bench/peers`, away from the project's own dependencies."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
PLACE = HERE.parent.parent / ".bench" / "peers"
VENV = PLACE / "python"
NODE_PLACE = PLACE / "node"
PYTHON = VENV / "bin" / "python"
NODE = VENV / "bin" / "node"
INSTALL_SECONDS = 600


class CannotInstall(Exception):
    """A runtime's peers are not there, and why."""


def versions() -> dict[str, str]:
    """Every package that is pinned here, and its version."""
    pins = (HERE / "requirements.txt").read_text() + (HERE / "node.txt").read_text()
    pinned = dict(line.split("==") for line in pins.splitlines() if "==" in line)
    packages: dict[str, str] = json.loads((HERE / "package.json").read_text())["dependencies"]
    return pinned | packages


def install_python() -> None:
    """A virtual environment with the Python peers; quick when it stands already.

    Raises:
        CannotInstall: pip failed.
    """
    _once(VENV / ".installed", [HERE / "requirements.txt"], _make_venv)


def install_node() -> None:
    """Node.js from its wheel, the Node.js peers by npm, and the drivers beside them.

    Raises:
        CannotInstall: there is no Node.js for this machine, or npm failed.
    """
    install_python()  # Node.js comes into the same virtual environment
    manifest = HERE / "package.json"
    _once(NODE_PLACE / ".installed", [manifest, HERE / "node.txt"], _make_node)
    for driver in HERE.glob("*.mjs"):  # Node.js looks for packages from where the script is
        shutil.copy(driver, NODE_PLACE)


def _once(stamp: Path, sources: list[Path], make: Callable[[], None]) -> None:
    wanted = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing into {stamp.parent.relative_to(PLACE.parent.parent)} …", flush=True)
        shutil.rmtree(stamp.parent, ignore_errors=True)
        stamp.parent.mkdir(parents=True)
        make()
        stamp.write_text(wanted)


def _make_venv() -> None:
    (NODE_PLACE / ".installed").unlink(missing_ok=True)  # its Node.js went with the old one
    _run(sys.executable, "-m", "venv", str(VENV))
    _pip("requirements.txt")


def _make_node() -> None:
    _pip("node.txt")
    shutil.copy(HERE / "package.json", NODE_PLACE)
    npm = VENV / "bin" / "npm"
    _run(str(npm), "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")


def _pip(requirements: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--only-binary", ":all:"]
    _run(str(PYTHON), "-m", "pip", "install", *options, "-r", str(HERE / requirements))


def _run(*command: str) -> None:
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"  # npm looks for node there
    where = NODE_PLACE if NODE_PLACE.is_dir() else PLACE
    try:
        subprocess.run(
            command,
            cwd=where,
            env=os.environ | {"PATH": path},
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise CannotInstall(said.strip()[-500:]) from error
