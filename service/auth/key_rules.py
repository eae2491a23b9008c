"""What a new API key must be."""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from service.auth.principal import LIMITABLE, KeyLimits
from service.errors import InvalidInput

MAX_NAME_CHARACTERS: Final = 100


def check_new_key(
    name: str, scopes: Collection[str], expires_at: datetime | None, limits: KeyLimits | None
) -> None:
    """Refuse what no key may be.

    Raises:
        InvalidInput: the name or the scopes are empty, the expiry has no time zone or is past, or
            limits come with scopes that they do not bind.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise InvalidInput(
            f"name: expected 1 to {MAX_NAME_CHARACTERS} printable characters", field="name"
        )
    if not scopes:
        raise InvalidInput("scopes: expected at least one permission", field="scopes")
    if limits is not None:
        _check_limitable(scopes)
    if expires_at is None:
        return
    if expires_at.tzinfo is None:
        raise InvalidInput("expires_at: expected a time zone", field="expires_at")
    if expires_at <= datetime.now(expires_at.tzinfo):
        raise InvalidInput("expires_at: expected a time to come", field="expires_at")


def _check_limitable(scopes: Collection[str]) -> None:
    unbound = sorted(set(scopes) - LIMITABLE)
    if unbound:
        raise InvalidInput(
            f"scopes: {', '.join(unbound)} would not be bound by queues, job_types or priorities: a "
            f"key with those may have {' and '.join(sorted(LIMITABLE))} alone",
            field="scopes",
        )
