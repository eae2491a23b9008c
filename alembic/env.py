"""Alembic's way into the migrations; what it does is in `service.db.alembic_env`."""

from service.db.alembic_env import run_environment

run_environment()
