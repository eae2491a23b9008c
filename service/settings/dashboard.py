"""Settings of the dashboard and of who is signed in to it."""

import re
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

from service.settings.comma_separated import CommaSeparated

_ORIGIN: Final = re.compile(r"https?://[^/\s]+")


class DashboardSettings(BaseModel):
    """Pages and sessions."""

    dashboard_enabled: bool = Field(True, description="Serve the dashboard at `/dashboard`.")
    dashboard_wait_seconds: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="The overview tells of a queue whose oldest due job has waited so long.",
    )
    dashboard_name: str = Field(
        "",
        max_length=40,
        description="What the dashboard's header calls this installation, such as `Production EU`. If unset, the value of `ENVIRONMENT`.",
    )
    dashboard_colour: Literal["grey", "blue", "green", "amber", "red", "violet"] | None = Field(
        None,
        description="Colour of that name: `grey`, `blue`, `green`, `amber`, `red` or `violet`. If unset, red in production and blue elsewhere.",
    )
    dashboard_origins: CommaSeparated = Field(
        (),
        description="Origins, comma-separated, from which browsers may send the dashboard's forms, beside the `Host` of the request. Needed only behind a proxy that replaces `Host`: `https://jobs.example.com`.",
    )
    dashboard_max_streams: int = Field(
        100,
        ge=0,
        le=10_000,
        description="Pages of the dashboard that one process keeps live by a stream of events. Further ones look for changes every few seconds instead.",
    )
    dashboard_scan_seconds: float = Field(
        0.15,
        gt=0,
        le=10,
        description="How long a page of the dashboard looks for jobs that no index finds, such as those with a field in their payload. After that it shows what it found, and a link that searches on.",
    )
    dashboard_masked_fields: CommaSeparated = Field(
        ("password", "passwd", "secret", "token", "api_key", "authorization"),
        description="Names of members, comma-separated and in any case, whose values the dashboard hides in payloads, results and progress at any depth. Operators can show them; the audit log says who did. The REST API is not masked.",
    )
    dashboard_hide_payloads: bool = Field(
        False,
        description="Hide payloads and results in the dashboard until an operator asks for those of a job; the audit log says who did.",
    )
    session_idle_minutes: float = Field(
        120.0,
        ge=1,
        le=10_080,
        description="How long a session of the dashboard lasts without a request. What a live page asks for by itself does not count.",
    )
    session_hours: float = Field(
        12.0,
        gt=0,
        le=720,
        description="How long a session of the dashboard lasts at most. It ends earlier with the token or API key that signed in.",
    )

    @field_validator("dashboard_origins", mode="after")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if not _ORIGIN.fullmatch(entry) or not urlsplit(entry).netloc:
                raise ValueError(f"{entry!r}: expected an origin such as https://jobs.example.com")
        return value
