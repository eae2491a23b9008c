"""What a new job asks for where another one has its `unique_key`."""

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from service.errors import InvalidInput
from service.jobs.core.unique_by import key_by

OnConflict = Literal["return", "reject", "replace", "extend", "keep_latest"]
"""What becomes of a new job whose key is held; see `NewJob`."""
UniqueScope = Literal["live", "until_started"]
"""How long a job holds its key: until it has ended, or until it starts."""

POLICIES: Final[tuple[str, ...]] = get_args(OnConflict)
SCOPES: Final[tuple[str, ...]] = get_args(UniqueScope)
OPTIONS: Final = (
    "on_conflict",
    "unique_scope",
    "unique_for_seconds",
    "debounce_max_seconds",
    "unique_by",
)
"""The members of `NewJob` that say more of its `unique_key`."""

DEFAULT_DEBOUNCE_MAX_SECONDS: Final = 3600.0
MAX_HOLD_SECONDS: Final = 366 * 86_400


@dataclass(frozen=True, slots=True)
class KeyRule:
    """How a job whose key may be held is decided on, if the live holder is not just returned.

    Such jobs take statements of their own.
    """

    on_conflict: OnConflict
    for_seconds: float | None = None
    debounce_max_seconds: float = DEFAULT_DEBOUNCE_MAX_SECONDS

    @property
    def takes_turns(self) -> bool:
        """Whether a job whose key is free must still be looked at by itself."""
        return self.on_conflict == "keep_latest" or self.for_seconds is not None


class Uniqueness(NamedTuple):
    """What a job's options come to."""

    key: str | None
    until_start: bool
    """Whether it gives the key up when it starts."""
    rule: KeyRule | None


def uniqueness_of(
    unique_key: str | None, options: dict[str, Any], *, job_type: str, queue: str, payload: Any
) -> Uniqueness:
    """The key and the rule of a job with these `OPTIONS`.

    Raises:
        InvalidInput: an option breaks a rule, or has no meaning beside the others.
    """
    policy: Any = options["on_conflict"] or "return"
    scope = options["unique_scope"] or "live"
    for_seconds, debounce = options["unique_for_seconds"], options["debounce_max_seconds"]
    if policy not in POLICIES:
        raise _refused("on_conflict", policy, f"expected one of {', '.join(POLICIES)}")
    if scope not in SCOPES:
        raise _refused("unique_scope", scope, f"expected one of {', '.join(SCOPES)}")
    key = unique_key
    if options["unique_by"] is not None:
        if unique_key is not None:
            by = ", ".join(options["unique_by"])
            raise _refused("unique_by", by, "unique_key is given as well: give one of them")
        key = key_by(options["unique_by"], job_type=job_type, queue=queue, payload=payload)
    _check_together(key, policy, scope, for_seconds, debounce)
    if policy == "return" and for_seconds is None:
        return Uniqueness(key, scope == "until_started", None)
    rule = KeyRule(policy, for_seconds, debounce or DEFAULT_DEBOUNCE_MAX_SECONDS)
    return Uniqueness(key, scope == "until_started" or policy == "keep_latest", rule)


def _check_together(
    key: str | None, policy: str, scope: str, for_seconds: Any, debounce: Any
) -> None:
    given = {
        "on_conflict": policy if policy != "return" else None,
        "unique_scope": scope if scope != "live" else None,
        "unique_for_seconds": for_seconds,
    }
    for name, value in given.items():
        if key is None and value is not None:
            raise _refused(
                name, value, "give the unique_key that it is about, or unique_by, as well"
            )
    if for_seconds is not None:
        _check_seconds("unique_for_seconds", for_seconds)
        if policy not in {"return", "reject"}:
            raise _refused(
                "unique_for_seconds", for_seconds,
                "it holds the key after the job has ended, when there is nothing to change: give "
                "on_conflict 'return' or 'reject' with it",
            )  # fmt: skip
        if scope != "live":
            raise _refused("unique_for_seconds", for_seconds, "leave unique_scope out beside it")
    if policy == "keep_latest" and scope != "live":
        raise _refused(
            "unique_scope", scope,
            "on_conflict 'keep_latest' has a rule of its own for a job that runs: leave it out",
        )  # fmt: skip
    if debounce is not None:
        if policy != "extend":
            raise _refused(
                "debounce_max_seconds",
                debounce,
                "it is for on_conflict 'extend' alone: leave it out",
            )
        _check_seconds("debounce_max_seconds", debounce)


def _check_seconds(name: str, seconds: Any) -> None:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= MAX_HOLD_SECONDS:
        raise _refused(name, seconds, f"expected above 0 and at most {MAX_HOLD_SECONDS} (a year)")


def _refused(field: str, value: object, rule: str) -> InvalidInput:
    return InvalidInput(f"{field} is {str(value)[:120]!r}: {rule}", field=field)
