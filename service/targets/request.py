"""What an `http.request` job is given: the payload, and the request that it stands for."""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.jobs.core.redaction import MASK
from service.targets.url import Url, parse_url

MAX_HEADERS: Final = 50
MAX_HEADER_CHARS: Final = 8_192
MAX_REDIRECTS: Final = 3
MAX_TIMEOUT_SECONDS: Final = 300.0
MAX_STATUSES: Final = 20

OWN_HEADERS: Final = frozenset(
    {
        "connection", "content-length", "expect", "host", "idempotency-key", "keep-alive",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
        "webhook-id", "webhook-signature", "webhook-timestamp",
    }
)  # fmt: skip
"""Headers that the service sets, or that would change how the request is framed."""

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE: Final = re.compile(r"[\x21-\x7e]+(?:[ \t]+[\x21-\x7e]+)*|")

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Status = Annotated[int, Field(ge=200, le=599)]


class HttpRequest(BaseModel):
    """Payload of an `http.request` job: one request to one URL."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "url": "https://crm.example.com/hooks/invoices",
                    "json": {"invoice": 4711, "state": "paid"},
                    "headers": {"Authorization": "Bearer …"},
                }
            ]
        },
    )

    url: str = Field(
        description="Where to: `https://host/path`, without a user and a fragment. Only the public internet is "
        "called, and what `TARGET_ALLOWED` names."
    )
    method: Method = Field("POST", description="The method.")
    headers: dict[str, str] = Field(
        {},
        max_length=MAX_HEADERS,
        description="Headers to send. Those that are secret (`TARGET_REDACTED_HEADERS`) are never shown again.",
    )
    json_body: Any = Field(None, alias="json", description="A body to send as JSON.")
    text: str | None = Field(None, description="A body to send as text in UTF-8.")
    base64: str | None = Field(None, description="A body of bytes, in base64.")
    timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_TIMEOUT_SECONDS,
        description="How long one request may take, redirects and answer included. If unset, "
        "`TARGET_TIMEOUT_SECONDS`.",
    )
    connect_timeout_seconds: float | None = Field(
        None,
        gt=0,
        le=60,
        description="How long it may take to look the host up and connect. If unset, `TARGET_CONNECT_SECONDS`.",
    )
    redirects: int = Field(
        0,
        ge=0,
        le=MAX_REDIRECTS,
        description="Redirects that are followed; each leads to what may be called, or the job fails.",
    )
    sign_with: str | None = Field(
        None,
        max_length=50,
        description="The name of a secret in `TARGET_SECRETS`: the request is signed by Standard Webhooks.",
    )
    success_statuses: list[Status] = Field(
        [],
        max_length=MAX_STATUSES,
        description="Statuses that count as success beside 2xx, such as 409 of a receiver that knows the "
        "request already.",
    )
    retry_statuses: list[Status] = Field(
        [],
        max_length=MAX_STATUSES,
        description="Statuses that are retried beside 408, 425, 429, 5xx and 3xx.",
    )

    @field_validator("url", mode="after")
    @classmethod
    def _url(cls, value: str) -> str:
        parse_url(value)
        return value

    @field_validator("headers", mode="after")
    @classmethod
    def _headers(cls, value: dict[str, str]) -> dict[str, str]:
        seen: set[str] = set()
        for name, content in value.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:100]!r} is not the name of a header")
            if name.lower() in OWN_HEADERS:
                raise ValueError(f"{name} is set by the service: leave it out")
            if name.lower() in seen:
                raise ValueError(
                    f"{name} is given twice, in different case: join the values with commas"
                )
            seen.add(name.lower())
            if content == MASK:
                raise ValueError(
                    f"the value of {name} is what stands for a secret: send the secret itself"
                )
            if not _VALUE.fullmatch(content):
                raise ValueError(
                    f"the value of {name} holds a character that headers cannot: expected printable ASCII, "
                    "without spaces around it"
                )
        if sum(len(name) + len(content) for name, content in value.items()) > MAX_HEADER_CHARS:
            raise ValueError(f"the headers have more than {MAX_HEADER_CHARS} characters together")
        return value

    @field_validator("base64", mode="after")
    @classmethod
    def _bytes(cls, value: str | None) -> str | None:
        if value is not None:
            _decoded(value)
        return value

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        given = self._bodies()
        if len(given) > 1:
            words = " and ".join("json" if name == "json_body" else name for name in given)
            raise ValueError(f"a request has one body: {words} are given")
        if given and self.method in {"GET", "HEAD"}:
            raise ValueError(
                f"a {self.method} request has no body: use POST, or leave the body out"
            )
        return self

    def parsed_url(self) -> Url:
        """The parts of the URL."""
        return parse_url(self.url)

    def body(self) -> tuple[bytes, str] | None:
        """The body as it is sent, and its Content-Type; None: there is none."""
        for name in self._bodies():
            return _BODIES[name](getattr(self, name))
        return None

    def _bodies(self) -> list[str]:
        # `null` is a JSON body, and no text.
        return [
            name
            for name in _BODIES
            if name in self.model_fields_set
            and (name == "json_body" or getattr(self, name) is not None)
        ]

    def retries(self, status: int) -> bool:
        """Whether an answer with this status may become a success later."""
        return (
            status in {408, 425, 429}
            or status in self.retry_statuses
            or (not 200 <= status < 300 and not 400 <= status < 500)
        )

    def succeeds(self, status: int) -> bool:
        """Whether an answer with this status is a success."""
        return status in self.success_statuses or (
            200 <= status < 300 and status not in self.retry_statuses
        )


def _as_json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), "application/json"


def _as_text(value: str) -> tuple[bytes, str]:
    return value.encode(), "text/plain; charset=utf-8"


def _as_bytes(value: str) -> tuple[bytes, str]:
    return _decoded(value), "application/octet-stream"


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64 (RFC 4648 §4, with padding)") from None


_BODIES: Final[Mapping[str, Callable[[Any], tuple[bytes, str]]]] = {
    "json_body": _as_json,
    "text": _as_text,
    "base64": _as_bytes,
}
