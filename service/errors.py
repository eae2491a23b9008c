"""Every error that the service raises on purpose.

    FinMindError
    ├── ConfigurationError        the service cannot start as it is configured
    ├── InvalidInput         422  a value breaks a rule; the message names both
    │   └── PayloadError     422  a payload or result that JSON or PostgreSQL cannot hold
    ├── Unauthenticated      401  no credential, or one that is not valid
    ├── Forbidden            403  a credential without the needed permission
    ├── NotFound             404  no such job, reminder or key
    ├── Conflict             409  the thing is in a state that does not allow this
    ├── Outdated             412  the thing has changed since the caller read it
    │   └── KeyHeld          409  a `unique_key` is held, and the request does not share it
    ├── TooManyFailures      429  a credential that is not valid, after too many such
    ├── QuotaExceeded        429  the caller has used up one of its quotas
    └── Unavailable          503  the database cannot answer just now; try again

Domain code raises these; `service.api.error_handlers` alone turns them into HTTP answers.
"""

from typing import ClassVar


class FinMindError(Exception):
    """Root of the tree. `detail` is shown to the caller: it must hold no secret."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    slug: ClassVar[str] = "internal-error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class ConfigurationError(FinMindError):
    """The service cannot start as it is configured; the message says what to change."""


class InvalidInput(FinMindError):
    """A value breaks a rule. `field` is the path of the value, dotted, where there is one."""

    status = 422
    title = "Invalid input"
    slug = "invalid-input"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


class PayloadError(InvalidInput):
    """A payload or a result that JSON or PostgreSQL cannot hold."""

    title = "Payload not storable"
    slug = "payload-not-storable"


class Unauthenticated(FinMindError):
    """No credential was given, or the one given is not valid (`credential_given`)."""

    status = 401
    title = "Not authenticated"
    slug = "not-authenticated"

    def __init__(self, detail: str, *, credential_given: bool = False) -> None:
        super().__init__(detail)
        self.credential_given = credential_given


class Forbidden(FinMindError):
    """The credential is valid, but does not have the needed permission (`scope`)."""

    status = 403
    title = "Not allowed"
    slug = "not-allowed"

    def __init__(self, detail: str, *, scope: str | None = None) -> None:
        super().__init__(detail)
        self.scope = scope


class NotFound(FinMindError):
    """No such job, reminder or key (or none that the caller may see)."""

    status = 404
    title = "Not found"
    slug = "not-found"


class Conflict(FinMindError):
    """The state of the thing does not allow what was asked."""

    status = 409
    title = "Conflict"
    slug = "conflict"


class KeyHeld(Conflict):
    """The `unique_key` of a new job is held, and what it asks for in that case is not possible."""

    title = "Unique key held"
    slug = "unique-key-held"


class Outdated(FinMindError):
    """The thing has changed since the caller read it, who asked for a change of that version alone."""

    status = 412
    title = "Outdated"
    slug = "outdated"


class TooManyFailures(FinMindError):
    """A credential is not valid, like too many from its source before."""

    status = 429
    title = "Too many failed sign-ins"
    slug = "too-many-failures"

    def __init__(self, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class QuotaExceeded(FinMindError):
    """The caller has used up a quota; the message names it and its setting."""

    status = 429
    title = "Quota exceeded"
    slug = "quota-exceeded"

    def __init__(self, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(FinMindError):
    """The service cannot answer just now; nothing was changed, or the answer was lost."""

    status = 503
    title = "Unavailable"
    slug = "unavailable"

    def __init__(self, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds
