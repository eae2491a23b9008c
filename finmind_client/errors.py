"""What a call may raise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final


class FinMindError(Exception):
    """Everything that this client raises on purpose."""


class NotReached(FinMindError):
    """The service did not answer, after every retry; `__cause__` says why.

    Whether it did what was asked is not known. Calls that carry an idempotency key can be made again with
    the same one.
    """


class JobNotEnded(FinMindError):
    """A job had not ended when the time to wait for it was over."""


class NotInstalled(FinMindError):
    """A database without the function that enqueues: the service's tables are in another one, or in another schema."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One value that was refused."""

    field: str
    """Its path: `body.jobs.3.priority`."""
    message: str
    """What was expected."""
    type: str


class ApiError(FinMindError):
    """The service refused a call, or could not carry it out: the problem document (RFC 9457)."""

    def __init__(
        self, status: int, problem: Mapping[str, Any], *, retry_after: float | None
    ) -> None:
        self.status: Final = status
        self.type: Final = str(problem.get("type", "about:blank"))
        """A stable identifier of the kind of problem."""
        self.title: Final = str(problem.get("title", f"Status {status}"))
        self.detail: Final = str(problem.get("detail", self.title))
        """What is wrong with this request, and the way out."""
        self.request_id: Final[str | None] = problem.get("request_id")
        """Names the request in the logs of the service."""
        self.errors: Final[Sequence[FieldError]] = tuple(
            FieldError(str(one.get("field")), str(one.get("message")), str(one.get("type")))
            for one in problem.get("errors") or ()
        )
        self.problem: Final = dict(problem)
        """The whole document."""
        self.retry_after_seconds: Final = retry_after
        """When the service wants to be asked again; None where it does not say."""
        super().__init__(f"{status} {self.title}: {self.detail}")


class InvalidInput(ApiError):
    """400, 413, 415, 422: the request breaks a rule, which `detail` and `errors` name."""


class NotAuthenticated(ApiError):
    """401: no credential, or one that does not hold any more."""


class NotAllowed(ApiError):
    """403: the credential does not allow this."""


class NotFound(ApiError):
    """404: there is no such thing that the caller may see."""


class Conflict(ApiError):
    """409, 412: it is not in a state that allows this, or has changed meanwhile."""


class QuotaExceeded(ApiError):
    """429: more than the caller may do."""


class Unavailable(ApiError):
    """5xx: the service cannot do it just now."""


_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    400: InvalidInput,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    413: InvalidInput,
    415: InvalidInput,
    422: InvalidInput,
    429: QuotaExceeded,
}


def error_of(status: int, problem: Mapping[str, Any], *, retry_after: float | None) -> ApiError:
    """The exception for an answer that is no success."""
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else ApiError)
    return kind(status, problem, retry_after=retry_after)
