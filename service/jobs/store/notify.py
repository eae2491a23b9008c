"""Notify the other processes."""

from typing import Final

NOTIFY: Final = "SELECT pg_notify($1, $2)"
