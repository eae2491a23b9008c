"""Which version of the service this is."""

import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def running_version() -> str:
    """The version installed, or, run from the source, the one that it says it is."""
    try:
        return version("finmind-jobs")
    except PackageNotFoundError:
        project = Path(__file__).parent.parent / "pyproject.toml"
        if not project.is_file():
            return "unknown"
        declared: str = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
        return declared
