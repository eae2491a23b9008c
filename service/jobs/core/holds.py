"""What a due job may be held for, besides a worker: the first part of `held_for`.

The names of limits are also those of permits, and of their counts in `job_permits`.
"""

from typing import Final

MAX_KEY_CHARS: Final = 255
"""Of a longer concurrency key, by plain SQL, the rest is left out."""

KEY: Final = "key:"
"""A limit for its concurrency key, which follows."""

QUEUE: Final = "queue:"
"""The limit of its queue, whose name follows."""

UNIQUE: Final = "unique"
"""Another job with its unique key that runs (`on_conflict` is `keep_latest`)."""

BREAKER: Final = "breaker:"
"""The breaker of its target, whose host and port follow: `breaker:crm.example.com:443`."""

RATE: Final = "rate:"
"""The rate of its queue, whose name follows, or of its concurrency key there; counted in `rate_limits`."""


def rate_of(queue: str, key: str | None = None) -> str:
    """The name of the rate of a queue, or of a concurrency key there: `rate:billing/customer:7`.

    The name of a queue is escaped as in a JSON pointer: plain SQL may give it slashes.
    """
    name = RATE + queue.replace("~", "~0").replace("/", "~1")
    return name if key is None else f"{name}/{key[:MAX_KEY_CHARS]}"


def key_of_rate(held_for: str) -> str | None:
    """The concurrency key that such a name ends with; None: it is the rate of a queue."""
    _, slash, key = held_for.partition("/")
    return key if slash else None
