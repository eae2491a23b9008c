"""Write docs/configuration.md and docs/metrics.md from what the code says of itself."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from service.observability.metrics import catalogue  # noqa: E402 - found by the line above
from service.settings import Settings  # noqa: E402

HEAD = """# Configuration

Every setting is an environment variable (or a line of `.env`), read once at start. Values that are
refused, and values that do not fit together, are named all at once, and nothing starts. What only
using them can show comes next, and ends the start with the first that fails: the port is taken, the
database is reached, the modules of `HANDLER_MODULES` are imported. This page is made from
`service/settings.py` by `make docs`.
"""
METRICS_HEAD = """# Metrics

What `/metrics` shows, beside the HTTP metrics of prometheus-fastapi-instrumentator and those of the
process. Values of labels come from bounded sets: job types and queues beyond the bound are summed
as `other`. This page is made from `service/observability/metrics.py` by `make docs`.
"""
BOUNDS = (("ge", "≥ {}"), ("gt", "> {}"), ("le", "≤ {}"), ("lt", "< {}"))


def render() -> str:
    """The page."""
    parts = [HEAD]
    for title, names in sections().items():
        parts += [
            f"\n## {title}\n",
            "| variable | default | allowed | what it does |",
            "|---|---|---|---|",
            *(row(name, Settings.model_fields[name]) for name in names),
        ]
    return "\n".join(parts) + "\n"


def render_metrics() -> str:
    """The page of the metrics."""
    rows = [
        f"| `{doc.name}` | {doc.kind} | {labels(doc.labels)} | {cell(doc.documentation)} |"
        for doc in catalogue()
    ]
    return (
        "\n".join(
            [METRICS_HEAD, "| metric | kind | labels | what it tells |", "|---|---|---|---|", *rows]
        )
        + "\n"
    )


def labels(names: Sequence[str]) -> str:
    """Names of labels."""
    return ", ".join(f"`{name}`" for name in names) or "—"


def cell(text: str) -> str:
    """Text that cannot break the table."""
    return text.replace("|", "\\|")


def sections() -> dict[str, list[str]]:
    """Names of settings by the `# -- title ---` lines above them in the source."""
    source = (ROOT / "service" / "settings.py").read_text()
    found: dict[str, list[str]] = {}
    title = "Service"
    for line in source.splitlines():
        if heading := re.match(r"    # -- (.+?) -+$", line):
            title = heading[1][0].upper() + heading[1][1:]
        elif (field := re.match(r"    (\w+): ", line)) and field[1] in Settings.model_fields:
            found.setdefault(title, []).append(field[1])
    missing = set(Settings.model_fields) - {name for names in found.values() for name in names}
    if missing:
        raise SystemExit(f"no section of settings.py holds {', '.join(sorted(missing))}")
    return found


def row(name: str, field: FieldInfo) -> str:
    """One setting."""
    return f"| `{name.upper()}` | {default(field)} | {allowed(field)} | {cell(field.description or '')} |"


def default(field: FieldInfo) -> str:
    """What holds where the variable is not set."""
    value = field.get_default()
    if value is None or value == ():
        return "—"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{value:g}`" if isinstance(value, float) and value < 1e6 else f"`{value}`"


def allowed(field: FieldInfo) -> str:
    """The bounds."""
    bounds: dict[str, Any] = {
        name: getattr(rule, name)
        for rule in field.metadata
        for name, _ in BOUNDS
        if getattr(rule, name, None) is not None
    }
    return ", ".join(text.format(bounds[name]) for name, text in BOUNDS if name in bounds)


PAGES = {"configuration.md": render, "metrics.md": render_metrics}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/{name}")
