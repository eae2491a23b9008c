"""Generate docs/configuration.md and docs/metrics.md from the code."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from service.observability.metrics import catalogue  # noqa: E402 - found by the line above
from service.settings import Settings  # noqa: E402

HEAD = """# Configuration

Every setting is an environment variable or a line of `.env`, read once at start. If values are
invalid or do not fit together, the service reports all of them at once and does not start. Then it
binds the port, connects to the database and imports `HANDLER_MODULES`, and stops at the first of these
that fails. `make docs` generates this page from `service/settings/`.
"""
METRICS_HEAD = """# Metrics

The metrics at `/metrics`, in addition to the HTTP metrics of prometheus-fastapi-instrumentator and
those of the process. Labels have a bounded number of values: job types and queues beyond the limit are
summed as `other`. `make docs` generates this page from `service/observability/metrics.py`.
"""
BOUNDS = (("ge", "≥ {}"), ("gt", "> {}"), ("le", "≤ {}"), ("lt", "< {}"))


def render() -> str:
    """The page."""
    parts = [HEAD]
    for title, settings in sections().items():
        parts += [
            f"\n## {title}\n",
            "| variable | default | allowed | what it does |",
            "|---|---|---|---|",
            *(row(name, field) for name, field in settings.items()),
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
    """The text with the characters escaped that would break a table."""
    return text.replace("|", "\\|")


def sections() -> dict[str, dict[str, FieldInfo]]:
    """The settings of each subject. The last base of `Settings` comes first on the page."""
    return {
        subject.__name__.removesuffix("Settings"): subject.model_fields
        for subject in reversed(Settings.__bases__)
        if issubclass(subject, BaseModel) and subject is not BaseSettings
    }


def row(name: str, field: FieldInfo) -> str:
    """One setting."""
    return f"| `{name.upper()}` | {default(field)} | {allowed(field)} | {cell(field.description or '')} |"


def default(field: FieldInfo) -> str:
    """The value that applies if the variable is not set."""
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
