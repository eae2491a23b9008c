"""The wheel: everything that an installation elsewhere needs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

DASHBOARD = Path(__file__).parent.parent / "service" / "dashboard"


def test_an_installation_elsewhere_migrates_and_enqueues(
    wheel: Path, empty_dsn: str, tmp_path: Path
) -> None:
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(installed),
                "DATABASE_URL": empty_dsn,
            },
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    migrated = run("migrate")
    assert migrated.returncode == 0, migrated.stderr
    assert int(run("enqueue", "demo.ok").stdout) > 0


def test_the_command_is_named_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith("entry_points.txt"))
        assert "finmind-jobs = service.cli:main" in archive.read(name).decode()


def test_the_pages_of_the_dashboard_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in ("templates", "static"):
        files = {
            f"service/dashboard/{folder}/{path.name}" for path in (DASHBOARD / folder).iterdir()
        }
        assert files
        assert files <= names


def test_the_types_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert {"service/py.typed", "finmind_client/py.typed"} <= set(archive.namelist())
