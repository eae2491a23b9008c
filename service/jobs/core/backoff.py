"""How long to wait before the next attempt: arithmetic. `outcome_policy.py` says whose backoff applies."""

import math
import random
from dataclasses import asdict, dataclass
from typing import Any, Self

from service.errors import InvalidInput
from service.settings import Settings

MAX_DELAY_SECONDS = 604_800.0
"""A week: no retry waits longer, whatever it asks for."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """`base · factor^(retry-1)`, capped, then varied by `jitter` (a share) up and down.

    The defaults give 30 s, 2 min, 8 min, 32 min and then 1 h, each ±10 %, and never above the cap.
    """

    base_seconds: float = 30.0
    factor: float = 4.0
    cap_seconds: float = 3600.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("base_seconds", self.base_seconds, 0.0, MAX_DELAY_SECONDS),
            ("factor", self.factor, 1.0, 100.0),
            ("cap_seconds", self.cap_seconds, 0.0, MAX_DELAY_SECONDS),
            ("jitter", self.jitter, 0.0, 1.0),
        ):
            if not low <= value <= high:  # false for NaN too
                raise InvalidInput(
                    f"backoff {name} is {value!r}: expected a number from {low:g} to {high:g}",
                    field=f"backoff.{name}",
                )

    def delay_seconds(self, retry: int, *, spread: float | None = None) -> float:
        """Seconds to wait before retry number `retry` (1 for the first).

        Args:
            retry: the number of the retry, from 1.
            spread: where in the jitter's range, from -1 to 1; drawn at random where None.
        """
        if retry < 1:
            raise ValueError(f"retry is {retry}: retries are counted from 1")
        try:
            delay = self.base_seconds * math.pow(self.factor, retry - 1)
        except OverflowError:
            delay = self.cap_seconds
        delay = min(delay, self.cap_seconds)
        if self.jitter:
            # Without jitter, jobs that failed together come back together. Not cryptography.
            where = random.uniform(-1.0, 1.0) if spread is None else spread  # noqa: S311
            delay *= 1.0 + self.jitter * where
        return min(delay, self.cap_seconds)

    def to_json(self) -> dict[str, float]:
        """As the `backoff` column keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Out of the `backoff` column; keys that a newer version wrote are passed over."""
        if not isinstance(value, dict):  # by plain SQL
            raise TypeError(f"backoff is a {type(value).__name__}: expected an object")
        known = {name: float(value[name]) for name in cls.__slots__ if name in value}
        return cls(**known)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The default of every job type that says nothing else."""
        return cls(
            base_seconds=settings.backoff_base_seconds,
            factor=settings.backoff_factor,
            cap_seconds=settings.backoff_cap_seconds,
            jitter=settings.backoff_jitter,
        )
