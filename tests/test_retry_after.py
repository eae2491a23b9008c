from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from service.retry_after import parse_retry_after

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("0", 1.0),
        ("42", 42.0),
        (" 42 ", 42.0),
        ("999999999999999999999", 3600.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 1.0),
        (format_datetime(NOW + timedelta(days=400), usegmt=True), 3600.0),
    ],
)
def test_retry_after_is_read_in_both_forms_and_bounded(
    value: str | None, seconds: float | None
) -> None:
    assert parse_retry_after(value, max_seconds=3600, now=NOW) == seconds
