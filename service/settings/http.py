"""What a request may hold, how long it may take, and which proxies stand before the API."""

import ipaddress
import re
from typing import Final

from pydantic import BaseModel, Field, field_validator

from service.settings.comma_separated import CommaSeparated

ROOT_PATH_PATTERN: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*")
OWN_PATHS: Final = frozenset(
    {"jobs", "admin", "reminders", "health", "metrics", "docs", "openapi.json"}
)
"""First parts of the API's paths."""


class HTTPSettings(BaseModel):
    """Requests and answers."""

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
        description="How long a client may take to send the line and headers of a request, and how long a new connection may stay without one.",
    )
    max_header_bytes: int = Field(
        65_536, ge=8192, le=1_048_576, description="Largest line and headers of a request."
    )
    forwarded_allow_ips: CommaSeparated = Field(
        (),
        description="Addresses or networks of proxies, comma-separated, whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed; `*` believes everybody. By default nobody is: the address of a client is that of its connection.",
    )
    root_path: str = Field(
        "",
        description="Path that a proxy serves the API under, such as `/jobs-service`; the proxy may take it off or leave it. `Location` headers, `/docs` and `/openapi.json` name it.",
    )
    keep_alive_seconds: float = Field(
        75.0,
        gt=0,
        le=3600,
        description="How long a connection is kept between two requests. Longer than proxies and clients keep theirs (60 s is usual), so that they close it first and no request meets a closed one.",
    )
    answer_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="How long a client may leave more than 64 KiB of an answer unread before its connection is cut.",
    )
    slow_request_seconds: float = Field(
        1.0, gt=0, le=600, description="Requests slower than this are logged as warnings."
    )
    max_batch_jobs: int = Field(
        1000, ge=1, le=10_000, description="Jobs in one `POST /jobs/batch`."
    )
    max_page_size: int = Field(200, ge=1, le=1000, description="Jobs on one page.")
    page_scan_seconds: float = Field(
        0.025,
        gt=0,
        le=60,
        description="How long a list looks for matches that are far apart in a large table. When it is over the page is sent as it stands, even empty, and its cursor goes on from there.",
    )
    query_timeout_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Bound on what one request asks of the database; over it the answer is 503.",
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
            # A path below it could be the API's own, or one that the proxy has left as it was.
            raise ValueError(f"{value!r}: the API has paths of that name; take another one")
        return root
