"""Writes the figures of a run, for docs/reliability.md, before anything is asserted."""

import json
import os
from pathlib import Path
from typing import Any, Final

REPORTS_VARIABLE: Final = "CHAOS_REPORTS"
ROOT: Final = Path(__file__).parents[2]


def report(name: str, **figures: Any) -> None:
    """Write the figures as JSON, into the folder that the environment names, or `.chaos`."""
    folder = Path(os.environ.get(REPORTS_VARIABLE, ROOT / ".chaos"))
    folder.mkdir(parents=True, exist_ok=True)
    told = {"trial": name, **figures}
    (folder / f"{name}.json").write_text(json.dumps(told, indent=2, default=str) + "\n")
