"""What Schemathesis is told beyond the document: it is run with this file as its hooks.

Rules of texts and times that JSON Schema has no words for. Values that break them are sent by tests
of their own.
"""

import json
from datetime import UTC, datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

PRINTABLE = frozenset({"unique_key", "name"})

moments = st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
schemathesis.openapi.format(
    "date-time", moments.map(lambda moment: moment.isoformat().replace("+00:00", "Z"))
)


def filter_body(_context: Any, body: Any) -> bool:
    """Whether PostgreSQL can store the texts in `body`, and those are printable that must be."""
    return "\\u0000" not in json.dumps(body, default=str) and _printable(body)


def _printable(body: Any) -> bool:
    if isinstance(body, list):
        return all(map(_printable, body))
    if not isinstance(body, dict):
        return True
    texts = (text for name, text in body.items() if name in PRINTABLE and isinstance(text, str))
    return all(text.isprintable() for text in texts) and _printable(body.get("jobs"))


schemathesis.hook(filter_body)
