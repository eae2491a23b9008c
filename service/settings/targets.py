"""Settings of targets: what `http.request` jobs may call, and how long and how often."""

from base64 import b64decode
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from re import fullmatch
from typing import Final

from pydantic import BaseModel, Field, SecretStr, field_validator

from service.settings.comma_separated import CommaSeparated

_HOST: Final = r"\.?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*"
_PORTS: Final = r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?"
_HEADER: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_NAME: Final = r"[a-z0-9_-]{1,50}"
MAX_PORT: Final = 65_535
MAX_ACTIVE_SECRETS: Final = 2


@dataclass(frozen=True, slots=True)
class AllowedTarget:
    """An entry of `TARGET_ALLOWED`: a host or a network, and perhaps one port."""

    host: str | None = None
    """In lower case; one that begins with a dot means all hosts below it."""
    network: IPv4Network | IPv6Network | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> "AllowedTarget":
        """Read an entry.

        Raises:
            ValueError: it is none.
        """
        name, port = text.lower(), None
        if (found := fullmatch(r"\[(.+)\]:([0-9]+)|([^:]+):([0-9]+)", name)) is not None:
            name, port = found[1] or found[3], int(found[2] or found[4])
        if port is not None and not 0 < port <= MAX_PORT:
            raise ValueError(f"{text[:100]!r}: the port is not one from 1 to {MAX_PORT}")
        try:
            return cls(network=ip_network(name.strip("[]")), port=port)
        except ValueError:
            if not fullmatch(_HOST, name):
                raise ValueError(
                    f"{text[:100]!r} is not a host, host:port, .domain, address or network (10.1.0.0/16)"
                ) from None
        return cls(host=name, port=port)


class TargetsSettings(BaseModel):
    """What jobs of the type `http.request` may call: see docs/targets.md."""

    target_enabled: bool = Field(
        True,
        description="Run jobs of the type `http.request`. If false, this process neither takes nor runs them.",
    )
    target_allowed: CommaSeparated = Field(
        (),
        description="Targets that are not on the public internet and may be called all the same, comma-separated: hosts (`crm.internal`, `.svc.cluster.local` for all below it), with one port (`localhost:9000`), addresses and networks (`10.1.0.0/16`). An entry with a port allows that port too. The metadata addresses of clouds are never called.",
    )
    target_ports: CommaSeparated = Field(
        ("80", "443"),
        description="Ports that any target may have, comma-separated, and ranges of them: `80,443,8000-8999`.",
    )
    target_timeout_seconds: float = Field(
        30.0,
        gt=0,
        le=300,
        description="How long one request may take, redirects and answer included, unless the job sets `timeout_seconds`.",
    )
    target_connect_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="How long it may take to look a host up, connect and agree on TLS, unless the job sets `connect_timeout_seconds`.",
    )
    target_max_running: int = Field(
        50,
        ge=1,
        le=10_000,
        description="Requests that run at the same time for one target (scheme, host and port), over all processes.",
    )
    target_secrets: SecretStr | None = Field(
        None,
        description="Secrets that sign requests (Standard Webhooks), comma-separated, by name: `crm=whsec_MfKQ…,billing=whsec_…`. A name may stand twice while its secret is rotated, the newer one first: then requests have both signatures.",
    )
    target_breaker_failures: int = Field(
        5,
        ge=1,
        le=1_000,
        description="Failures in a row, in one process, after which a target is left alone: no answer, or 5xx. Until its first answer a target gets so many requests of a process at once.",
    )
    target_breaker_seconds: float = Field(
        30.0,
        ge=0.1,
        le=3600,
        description="How long it is left alone, before one request tries it. Each try in vain doubles that.",
    )
    target_breaker_max_seconds: float = Field(
        600.0, ge=1, le=86_400, description="How long it is left alone at most."
    )
    target_retry_after_seconds: float = Field(
        3600.0,
        ge=1,
        le=604_800,
        description="The longest `Retry-After` of a target that is followed; a longer one is cut to it.",
    )
    target_ca_file: Path | None = Field(
        None,
        description="A file of certificates (PEM) that are trusted for targets beside the public ones: those of an internal authority.",
    )
    target_redacted_headers: CommaSeparated = Field(
        (
            "Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "Api-Key",
            "X-Auth-Token", "X-Access-Token", "X-Csrf-Token", "X-Amz-Security-Token", "X-Vault-Token",
        ),
        description="Headers, comma-separated and in any case, whose values are never shown: neither those that are sent nor those that come back. The worker alone sees them.",
    )  # fmt: skip

    @field_validator("target_allowed", mode="after")
    @classmethod
    def _entries(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            AllowedTarget.parse(entry)
        return value

    @field_validator("target_ports", mode="after")
    @classmethod
    def _ports(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            _range(entry)
        return value

    @field_validator("target_redacted_headers", mode="after")
    @classmethod
    def _headers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not fullmatch(_HEADER, name):
                raise ValueError(f"{name[:100]!r} is not the name of a header")
        return value

    @field_validator("target_secrets", mode="after")
    @classmethod
    def _secrets(cls, value: SecretStr | None) -> SecretStr | None:
        _secrets_by_name(value)
        return value

    @field_validator("target_ca_file", mode="after")
    @classmethod
    def _certificates(cls, value: Path | None) -> Path | None:
        if value is not None and not value.expanduser().is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @property
    def signing_secrets(self) -> dict[str, tuple[bytes, ...]]:
        """The active secrets by name, the newest first."""
        return _secrets_by_name(self.target_secrets)

    @property
    def allowed_targets(self) -> tuple[AllowedTarget, ...]:
        """The entries of `TARGET_ALLOWED`."""
        return tuple(map(AllowedTarget.parse, self.target_allowed))

    @property
    def target_port_ranges(self) -> tuple[range, ...]:
        """The ports of `TARGET_PORTS`."""
        return tuple(map(_range, self.target_ports))


def _secrets_by_name(value: SecretStr | None) -> dict[str, tuple[bytes, ...]]:
    """Read `TARGET_SECRETS`; no message quotes a secret.

    Raises:
        ValueError: an entry is none, or a name has too many secrets.
    """
    found: dict[str, tuple[bytes, ...]] = {}
    entries = "" if value is None else value.get_secret_value()
    for position, entry in enumerate(filter(None, map(str.strip, entries.split(","))), 1):
        name, _, text = entry.partition("=")
        if not fullmatch(_NAME, name) or not text.startswith("whsec_"):
            raise ValueError(
                f"entry {position} is not name=whsec_…, with a name of a to z, 0 to 9, - and _"
            )
        try:
            secret = b64decode(text.removeprefix("whsec_"), validate=True)
        except ValueError:
            secret = b""
        if not 24 <= len(secret) <= 64:
            raise ValueError(
                f"the secret of {name} is not 24 to 64 bytes in base64 after whsec_: make one with "
                "`echo whsec_$(openssl rand -base64 32)`"
            )
        found[name] = (*found.get(name, ()), secret)
        if len(found[name]) > MAX_ACTIVE_SECRETS:
            raise ValueError(
                f"{name} has more than {MAX_ACTIVE_SECRETS} secrets: remove the oldest"
            )
    return found


def _range(text: str) -> range:
    found = fullmatch(_PORTS, text)
    first, last = (0, 0) if found is None else (int(found[1]), int(found[2] or found[1]))
    if found is None or not first <= last <= MAX_PORT:
        raise ValueError(
            f"{text[:100]!r} is not a port or a range of ports, such as 443 or 8000-8999"
        )
    return range(first, last + 1)
