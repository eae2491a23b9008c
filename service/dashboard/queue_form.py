"""The limits of a queue: in words, in the boxes of a form, and as they were written into them."""

from collections.abc import Mapping
from typing import Final

from service.dashboard.formats import number
from service.errors import InvalidInput
from service.jobs.core.queue_limits import AtLimit, LimitChange, QueueLimits, Rate
from service.jobs.read.queues import QueueState

BOXES: Final = (
    "max_running",
    "max_running_per_key",
    "rate_limit",
    "rate_seconds",
    "rate_burst",
    "key_rate_limit",
    "key_rate_seconds",
    "key_rate_burst",
    "weight",
    "key_fairness",
    "at_limit",
)

AT_LIMIT: Final[dict[str, str]] = {
    AtLimit.WAIT: "waits its turn",
    AtLimit.DROP_NEW: "is cancelled",
    AtLimit.KEEP_LATEST: "waits, and those that wait already are cancelled",
    AtLimit.CANCEL_RUNNING: "waits, and the one that has run longest is cancelled",
}
"""What becomes of a job that finds a limit on running jobs reached."""


def written(limits: QueueLimits) -> dict[str, str]:
    """What the boxes hold; an empty one is no limit."""
    values = {
        "max_running": limits.max_running,
        "max_running_per_key": limits.max_running_per_key,
        **_written_rate("rate", limits.rate),
        **_written_rate("key_rate", limits.rate_per_key),
        "weight": limits.weight,
        "key_fairness": "on" if limits.key_fairness else "",
        "at_limit": limits.at_limit,
    }
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _written_rate(boxes: str, rate: Rate | None) -> dict[str, int | str | None]:
    return {
        f"{boxes}_limit": rate and rate.limit,
        f"{boxes}_seconds": rate and f"{rate.per_seconds:g}",
        f"{boxes}_burst": rate and rate.burst,
    }


def in_words(queue: QueueState) -> str:
    """The limits of a queue for a line of its own; nothing where it has none."""
    limits, words = queue.limits, []
    if limits.max_running is not None:
        words.append(
            f"{number(queue.permits_used or 0)} of {number(limits.max_running)} permits in use"
        )
    if limits.max_running_per_key is not None:
        words.append(f"{number(limits.max_running_per_key)} at once for each key")
    if limits.rate is not None:
        words.append(_rate_in_words(limits.rate))
    if limits.rate_per_key is not None:
        words.append(f"{_rate_in_words(limits.rate_per_key)} for each key")
    if limits.weight is not None:
        words.append(f"weight {number(limits.weight)}")
    if limits.key_fairness:
        words.append("keys take turns")
    if limits.at_limit != "wait":
        words.append(f"at the limit a job {AT_LIMIT.get(limits.at_limit, limits.at_limit)}")
    return " · ".join(words)


def _rate_in_words(rate: Rate) -> str:
    burst = f", {number(rate.burst)} at once" if rate.burst is not None else ""
    return f"{number(rate.limit)} starts per {rate.per_seconds:g} s{burst}"


def read(given: Mapping[str, str]) -> LimitChange:
    """The limits that were written.

    Raises:
        InvalidInput: a value is not a number, or a rate is half given.
    """
    return LimitChange(
        max_running=_whole(given, "max_running"),
        max_running_per_key=_whole(given, "max_running_per_key"),
        rate=_rate(given, "rate", "The rate"),
        rate_per_key=_rate(given, "key_rate", "The rate for each key"),
        weight=_whole(given, "weight"),
        key_fairness=bool(given["key_fairness"]),
        at_limit=given["at_limit"] or "wait",
    )


def _rate(given: Mapping[str, str], boxes: str, name: str) -> Rate | None:
    limit, seconds = _whole(given, f"{boxes}_limit"), _seconds(given, f"{boxes}_seconds")
    burst = _whole(given, f"{boxes}_burst")
    if (limit is None) != (seconds is None) or (burst is not None and limit is None):
        raise InvalidInput(f"{name} is half given: write both the jobs and the seconds, or neither")
    return None if limit is None or seconds is None else Rate(limit, seconds, burst)


def _whole(given: Mapping[str, str], name: str) -> int | None:
    text = given[name].strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise InvalidInput(
            f"{name} is {text[:60]!r}: expected a whole number, or nothing", field=name
        )
    return int(text)


def _seconds(given: Mapping[str, str], name: str) -> float | None:
    text = given[name].strip()
    try:
        return float(text) if text else None
    except ValueError:
        raise InvalidInput(
            f"{name} is {text[:60]!r}: expected a number, or nothing", field=name
        ) from None
