"""Where the service runs, what it listens on, what it logs and shows."""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, Field, field_validator


class Environment(StrEnum):
    """Where the service runs: development forgives, production does not."""

    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class ServiceSettings(BaseModel):
    """The process and its surroundings."""

    environment: Environment = Field(
        Environment.DEVELOPMENT,
        description="`development`, `test` or `production`. Production needs `DATABASE_URL` and a real `JWT_SECRET` or `JWT_JWKS_URL`.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on. Containers set `0.0.0.0`.")
    port: int = Field(
        8000, ge=0, le=65535, description="Port that `serve` listens on; 0 takes a free one."
    )
    worker_port: int = Field(
        8001,
        ge=0,
        le=65535,
        description="Port of a `worker`'s health and metrics; 0 takes a free one.",
    )
    data_dir: Path = Field(
        Path(".data"),
        description="Where the embedded PostgreSQL and the development secret are kept.",
    )
    log_level: str = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")
    log_format: str = Field(
        "auto",
        pattern="^(auto|json|console)$",
        description="`json`, `console`, or `auto`: console on a terminal, else JSON.",
    )
    docs_enabled: bool = Field(True, description="Serve `/docs` and `/openapi.json`.")
    metrics_public: bool = Field(
        True, description="Serve `/metrics` without a credential; else it needs `metrics:read`."
    )

    @field_validator("log_level", mode="after")
    @classmethod
    def _known_level(cls, value: str) -> str:
        level = value.upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError("expected DEBUG, INFO, WARNING or ERROR")
        return level

    @property
    def is_production(self) -> bool:
        """Whether the strict rules hold."""
        return self.environment is Environment.PRODUCTION
