"""What an operator may set for a queue besides its pause, and the rules for it."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypedDict

from service.errors import InvalidInput

MAX_LIMIT: Final = 1_000_000
"""The largest limit on jobs."""

MAX_WEIGHT: Final = 1000

MIN_RATE_SECONDS: Final = 0.1
MAX_RATE_SECONDS: Final = 86_400.0
"""The shortest and the longest time that a rate may be counted over."""


class AtLimit(StrEnum):
    """What becomes of a job that finds a limit on running jobs reached."""

    WAIT = "wait"
    """It is held, in order of priority and due time."""
    DROP_NEW = "drop_new"
    """It ends CANCELLED at once."""
    KEEP_LATEST = "keep_latest"
    """It is held, and those that were held for the same limit before end CANCELLED."""
    CANCEL_RUNNING = "cancel_running"
    """It is held, and the job that has run longest under the limit is asked to stop."""


AT_LIMIT: Final = tuple(one.value for one in AtLimit)


class Rate(NamedTuple):
    """How many jobs may start within a time, over all processes."""

    limit: int
    per_seconds: float
    burst: int | None = None
    """How many may start at once after a quiet time; None: what may start in a second, at least 1."""

    @property
    def at_once(self) -> int:
        """How many may start at once after a quiet time."""
        return self.burst or max(1, math.ceil(self.limit / self.per_seconds))


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """The limits of one queue, over all processes; as they are here, there are none."""

    max_running: int | None = None
    """Jobs that may run at once."""
    max_running_per_key: int | None = None
    """The same, of each concurrency key."""
    rate: Rate | None = None
    rate_per_key: Rate | None = None
    """The same, of each concurrency key; keys of other queues are counted apart."""
    weight: int | None = None
    """Its share of the slots beside other queues that have due jobs; None: 1."""
    key_fairness: bool = False
    """Whether claims take from its concurrency keys in turn."""
    at_limit: str = AtLimit.WAIT.value
    """What becomes of a job that finds its limit reached, one of `AtLimit`."""

    def check(self) -> None:
        """Refuse what no queue can have.

        Raises:
            InvalidInput: a value breaks a rule; both are named.
        """
        for name in ("max_running", "max_running_per_key"):
            _check(name, getattr(self, name), 1, MAX_LIMIT, way_out="; to start none, pause it")
        _check_rate("rate", self.rate)
        _check_rate("rate_per_key", self.rate_per_key)
        _check("weight", self.weight, 1, MAX_WEIGHT)
        if not isinstance(self.key_fairness, bool):
            raise InvalidInput(
                f"key_fairness is {self.key_fairness!r}: expected true or false",
                field="key_fairness",
            )
        if self.at_limit not in AT_LIMIT:
            raise InvalidInput(
                f"at_limit is {self.at_limit!r}: expected {' or '.join(AT_LIMIT)}", field="at_limit"
            )

    def shown(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            name: value._asdict() if isinstance(value := getattr(self, name), Rate) else value
            for name in self.__slots__
        }


class LimitChange(TypedDict, total=False):
    """The limits that are to be changed, by name; None lifts one, what is left out stays."""

    max_running: int | None
    max_running_per_key: int | None
    rate: Rate | None
    rate_per_key: Rate | None
    weight: int | None
    key_fairness: bool
    at_limit: str


NO_LIMITS = QueueLimits()


def _check_rate(name: str, rate: Rate | None) -> None:
    if rate is None:
        return
    _check(
        f"{name}.limit",
        rate.limit,
        1,
        MAX_LIMIT,
        way_out="; to start none, pause it",
        may_lack=False,
    )
    _check_seconds(name, rate.per_seconds)
    _check(f"{name}.burst", rate.burst, 1, MAX_LIMIT)


def _check(
    name: str, value: object, low: int, high: int, *, way_out: str = "", may_lack: bool = True
) -> None:
    if value is None and may_lack:
        return
    if type(value) is not int or not low <= value <= high:
        raise InvalidInput(
            f"{name} is {value!r}: expected a whole number from {low} to {high:,}{way_out}",
            field=name,
        )


def _check_seconds(rate: str, value: object) -> None:
    is_number = type(value) in {int, float} and math.isfinite(value)  # type: ignore[arg-type]
    if not is_number or not MIN_RATE_SECONDS <= value <= MAX_RATE_SECONDS:  # type: ignore[operator]
        raise InvalidInput(
            f"per_seconds of {rate} is {value!r}: expected {MIN_RATE_SECONDS:g} to {MAX_RATE_SECONDS:,.0f}",
            field=f"{rate}.per_seconds",
        )
