"""Who calls, and what they may do."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, Self


class Permission(StrEnum):
    """One thing that a caller may do; also the scopes of an API key."""

    JOBS_WRITE = "jobs:write"
    JOBS_READ = "jobs:read"
    JOBS_WORK = "jobs:work"
    """Claim jobs over HTTP, and report what became of them."""
    ADMIN_READ = "admin:read"
    ADMIN_OPERATE = "admin:operate"
    ADMIN_DELETE = "admin:delete"
    """Delete many jobs at once; one job needs `admin:operate` alone."""
    SCHEDULES_WRITE = "schedules:write"
    """Make schedules, and act on one's own; on others' with `admin:operate`."""
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
    Role.OPERATOR: _VIEWER | {Permission.ADMIN_OPERATE, Permission.SCHEDULES_WRITE},
    Role.VIEWER: _VIEWER,
    Role.SERVICE: frozenset(
        {Permission.JOBS_WRITE, Permission.JOBS_READ, Permission.SCHEDULES_WRITE}
    ),
    Role.USER: frozenset({Permission.REMINDERS_OWN}),
}

API_KEY_SUBJECT_PREFIX: Final = "api-key:"
"""Prefix of the subjects of API keys; tokens with such a `sub` are refused, so that none poses as a key."""


LIMITABLE: Final = frozenset({Permission.JOBS_WRITE, Permission.JOBS_READ, Permission.JOBS_WORK})
"""The scopes that a key with limits may carry: what the others allow is bound to no queue."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The only jobs that an API key may enqueue, read and claim; None: any."""

    queues: frozenset[str] | None
    job_types: frozenset[str] | None
    priorities: frozenset[int] | None

    @classmethod
    def of(
        cls,
        queues: Iterable[str] | None,
        job_types: Iterable[str] | None,
        priorities: Iterable[int] | None,
    ) -> Self | None:
        """These limits; None where there are none."""
        if queues is None and job_types is None and priorities is None:
            return None
        return cls(
            queues=None if queues is None else frozenset(queues),
            job_types=None if job_types is None else frozenset(job_types),
            priorities=None if priorities is None else frozenset(priorities),
        )

    def refusal(self, *, job_type: str, queue: str, priority: int) -> str | None:
        """Why the key may not enqueue such a job; None where it may."""
        for name, value, allowed in (
            ("job_type", job_type, self.job_types),
            ("queue", queue, self.queues),
            ("priority", priority, self.priorities),
        ):
            if allowed is not None and value not in allowed:
                return f"{name} {value!r} is not one that your API key may use: {_list(allowed)}"
        return None

    def covers(self, *, job_type: str, queue: str) -> bool:
        """Whether the key may read, or work on, a job of this type and queue."""
        return (self.job_types is None or job_type in self.job_types) and (
            self.queues is None or queue in self.queues
        )


def _list(allowed: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, allowed)))


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of one request. `role` is None for API keys, which have scopes instead.

    `expires_at` and `limits` are those of an API key; None where it has none.
    """

    subject: str
    role: Role | None
    permissions: frozenset[Permission]
    kind: Literal["token", "api_key"]
    expires_at: datetime | None = None
    limits: KeyLimits | None = None

    def may(self, permission: Permission) -> bool:
        """Whether this caller holds the permission."""
        return permission in self.permissions
