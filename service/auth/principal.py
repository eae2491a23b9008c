"""Who calls, and what they may do."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class Permission(StrEnum):
    """One thing that a caller may do; also the scopes of an API key."""

    JOBS_WRITE = "jobs:write"
    JOBS_READ = "jobs:read"
    ADMIN_READ = "admin:read"
    ADMIN_OPERATE = "admin:operate"
    KEYS_MANAGE = "keys:manage"
    METRICS_READ = "metrics:read"
    REMINDERS_OWN = "reminders:own"
    REMINDERS_ALL = "reminders:all"


class Role(StrEnum):
    """The `role` of a token: a fixed set of permissions."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"
    SERVICE = "service"
    USER = "user"


_VIEWER: Final = frozenset({Permission.ADMIN_READ, Permission.JOBS_READ, Permission.METRICS_READ})

ROLE_PERMISSIONS: Final[dict[Role, frozenset[Permission]]] = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: _VIEWER | {Permission.ADMIN_OPERATE},
    Role.VIEWER: _VIEWER,
    Role.SERVICE: frozenset({Permission.JOBS_WRITE, Permission.JOBS_READ}),
    Role.USER: frozenset({Permission.REMINDERS_OWN}),
}

API_KEY_SUBJECT_PREFIX: Final = "api-key:"
"""Subjects of API keys; no token may carry such a `sub`, so that none passes for a key."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of one request. `role` is None for API keys, which carry scopes instead."""

    subject: str
    role: Role | None
    permissions: frozenset[Permission]
    kind: Literal["token", "api_key"]

    def may(self, permission: Permission) -> bool:
        """Whether this caller holds the permission."""
        return permission in self.permissions
