"""Settings of the HTTP API: sizes, timeouts, pages and proxies."""

import ipaddress
import re
from typing import Final

from pydantic import BaseModel, Field, field_validator

from service.settings.comma_separated import CommaSeparated

ROOT_PATH_PATTERN: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*")
OWN_PATHS: Final = frozenset(
    {
        "jobs",
        "worker",
        "admin",
        "reminders",
        "health",
        "metrics",
        "docs",
        "dashboard",
        "openapi.json",
    }
)
"""First segments of the API's own paths."""


class HTTPSettings(BaseModel):
    """Sizes, timeouts, pages and proxies."""

    max_body_bytes: int = Field(
        1_048_576, ge=1024, le=67_108_864, description="Largest request body."
    )
    max_json_depth: int = Field(64, ge=4, le=200, description="Deepest nesting of a request body.")
    body_timeout_seconds: float = Field(
        30.0, gt=0, le=600, description="How long a client may take to send a request body."
    )
    header_timeout_seconds: float = Field(
        10.0,
        gt=0,
        le=600,
        description="How long a client may take to send the request line and headers, and how long a new connection may stay idle before its first request.",
    )
    max_header_bytes: int = Field(
        65_536, ge=8192, le=1_048_576, description="Largest request line and headers."
    )
    forwarded_allow_ips: CommaSeparated = Field(
        (),
        description="Addresses or networks of proxies, comma-separated, whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted; `*` trusts everyone. By default none is trusted: a client's address is that of its connection.",
    )
    root_path: str = Field(
        "",
        description="Path under which a proxy serves the API, such as `/jobs-service`. The proxy may strip it or keep it. `Location` headers, `/docs` and `/openapi.json` include it.",
    )
    keep_alive_seconds: float = Field(
        75.0,
        gt=0,
        le=3600,
        description="How long an idle connection stays open between requests. Keep it longer than proxies and clients do (usually 60 s), so that they close first and no request is sent on a closed connection.",
    )
    answer_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="How long a client may leave more than 64 KiB of an answer unread before the connection is closed.",
    )
    slow_request_seconds: float = Field(
        1.0, gt=0, le=600, description="Requests that take longer are logged as warnings."
    )
    max_batch_jobs: int = Field(
        1000, ge=1, le=10_000, description="Largest number of jobs in one `POST /jobs/batch`."
    )
    max_page_size: int = Field(
        200, ge=1, le=1000, description="Largest number of jobs on one page."
    )
    page_scan_seconds: float = Field(
        0.025,
        gt=0,
        le=60,
        description="How long a list searches a large table for matching jobs. After that the page is returned as it is, possibly empty, with a cursor that continues the search.",
    )
    query_timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Timeout for the database work of one request; beyond it the answer is 503.",
    )

    max_followers: int = Field(
        2000,
        ge=0,
        le=100_000,
        description="Requests of one process that may wait for the end of a job (`wait`) or read its events at a time. Further ones are answered 503.",
    )
    max_followers_per_caller: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="How many of them may be those of one caller.",
    )

    @field_validator("forwarded_allow_ips", mode="after")
    @classmethod
    def _proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            try:
                if entry != "*":
                    ipaddress.ip_network(entry)
            except ValueError:
                raise ValueError(
                    f"{entry!r}: expected an address or a network such as 10.0.0.0/8"
                ) from None
        return value

    @field_validator("root_path", mode="after")
    @classmethod
    def _root_path(cls, value: str) -> str:
        root = value.rstrip("/")
        if not ROOT_PATH_PATTERN.fullmatch(root):
            raise ValueError(f"{value!r}: expected a path such as /jobs-service")
        if root.split("/")[1:2] and root.split("/")[1] in OWN_PATHS:
            # A path below it would be ambiguous: the API's own, or one whose prefix the proxy kept.
            raise ValueError(f"{value!r}: the API uses paths of that name; choose another one")
        return root
