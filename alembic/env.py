"""Alembic's way into the migrations; what it does is in `service.db.migrate`."""

from service.db.migrate import run_environment

run_environment()
