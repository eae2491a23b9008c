"""Settings of the process: its environment, ports, data directory and logs."""

from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, Field, field_validator


class Environment(StrEnum):
    """Where the service runs. Production enforces the strict rules of `rules.py`."""

    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class ServiceSettings(BaseModel):
    """Environment, ports, data directory and logs."""

    environment: Environment = Field(
        Environment.DEVELOPMENT,
        description="`development`, `test` or `production`. Production requires `DATABASE_URL`, and `JWT_SECRET` or `JWT_JWKS_URL`.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on. Containers set `0.0.0.0`.")
    port: int = Field(
        8000, ge=0, le=65535, description="Port that `serve` listens on; 0 picks a free one."
    )
    worker_port: int = Field(
        8001,
        ge=0,
        le=65535,
        description="Port on which `worker` serves health and metrics; 0 picks a free one.",
    )
    data_dir: Path = Field(
        Path(".data"),
        description="Directory of the embedded PostgreSQL and the development secret.",
    )
    log_level: str = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`.")
    log_format: str = Field(
        "auto",
        pattern="^(auto|json|console)$",
        description="`json`, `console` or `auto`, which is console on a terminal and JSON elsewhere.",
    )
    docs_enabled: bool = Field(True, description="Serve `/docs` and `/openapi.json`.")
    metrics_public: bool = Field(
        True,
        description="Serve `/metrics` without a credential. If false, it requires the scope `metrics:read`.",
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
        """Whether the strict rules apply."""
        return self.environment is Environment.PRODUCTION
