"""`@schedule`: schedules that an application's code defines, beside the handlers of their jobs."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from service.errors import ConfigurationError, InvalidInput
from service.jobs import Registry, registry
from service.jobs.core.job import DEFAULT_QUEUE
from service.schedules.model import CatchUp, Definition, Overlap
from service.schedules.rules import check, concurrency_key_of
from service.schedules.timing import Timing

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Declaration:
    """One decorator: the function below it, and what was given."""

    function: Callable[..., Any]
    name: str | None
    timing: Timing
    values: dict[str, Any]

    @property
    def where(self) -> str:
        """The function, for messages."""
        return f"{self.function.__module__}.{self.function.__qualname__}"


class Declarations:
    """The schedules that the code of a process defines."""

    def __init__(self) -> None:
        self._all: list[Declaration] = []

    def schedule(
        self,
        cron: str | None = None,
        *,
        every_seconds: float | None = None,
        zone: str = "UTC",
        name: str | None = None,
        payload: dict[str, Any] | None = None,
        tick_member: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        timeout_seconds: float | None = None,
        concurrency_key: str | None = None,
        overlap: Overlap | str = Overlap.SKIP,
        catch_up: CatchUp | str = CatchUp.ONE,
        catch_up_seconds: float = 3600.0,
        jitter_seconds: float = 0.0,
        pause_after_failures: int | None = None,
    ) -> Callable[[FunctionT], FunctionT]:
        """Enqueue a job of the decorated handler at each tick. Stands above or below `@register_handler`.

            @schedule("0 6 * * *", zone="Europe/Berlin")
            @register_handler("send_digest")
            async def send_digest(payload, ctx): ...

        Args:
            cron: minute, hour, day, month and weekday, or `@daily` and such; or `every_seconds`.
            every_seconds: from one tick to the next, at least 1.
            zone: the IANA zone whose clock `cron` means.
            name: of the schedule, unlike every other in the database; the job type where None.
            payload: of its jobs.
            tick_member: the member of their payloads that tells each its tick; `ctx.tick()` does anyway.
            queue: where they wait; the handler's own where None.
            priority: 0 (most urgent) to 9.
            max_retries: of each; the handler's where None.
            timeout_seconds: of one attempt; the handler's where None.
            concurrency_key: of each; by the handler's rule where None.
            overlap: what becomes of a tick while a run before it has not ended: `skip`, `queue_one`,
                `queue_all`, `cancel_other`, `allow`.
            catch_up: what becomes of ticks that nobody was there for: `one`, `all`, `none`.
            catch_up_seconds: how late a tick may still run.
            jitter_seconds: limit on how long after its tick a run is due.
            pause_after_failures: after so many failed runs in a row it is paused.

        Raises:
            ConfigurationError: the rule gives no ticks, or a policy is none of those.
        """
        timing = Timing(cron, every_seconds, zone)
        try:
            timing.check()
            policies = {"overlap": Overlap(overlap), "catch_up": CatchUp(catch_up)}
        except (InvalidInput, ValueError) as error:
            raise ConfigurationError(f"@schedule: {error}") from None
        values = {
            "payload": payload or {},
            "tick_member": tick_member,
            "queue": queue,
            "priority": priority,
            "max_retries": max_retries,
            "timeout_seconds": timeout_seconds,
            "concurrency_key": concurrency_key,
            "catch_up_seconds": catch_up_seconds,
            "jitter_seconds": jitter_seconds,
            "pause_after_failures": pause_after_failures,
        } | policies

        def declare(function: FunctionT) -> FunctionT:
            self._all.append(Declaration(function, name, timing, values))
            return function

        return declare

    def definitions(self, handlers: Registry = registry) -> dict[str, Definition]:
        """Every schedule by name, once the handlers are registered.

        Raises:
            ConfigurationError: a function handles no job type or several, a name is given twice, or a value
                breaks a rule.
        """
        found: dict[str, tuple[Declaration, Definition]] = {}
        for one in self._all:
            job_type = _job_type(one, handlers)
            name, definition = one.name or job_type, _definition(one, job_type, handlers)
            if name in found and found[name] != (one, definition):
                raise ConfigurationError(
                    f"Schedule {name!r} is defined twice, at {found[name][0].where} and at {one.where}: give "
                    'one another name, @schedule(…, name="…")'
                )
            try:
                check(name, definition)
            except InvalidInput as error:
                raise ConfigurationError(f"@schedule at {one.where}: {error.detail}") from None
            found[name] = one, definition
        return {name: definition for name, (_, definition) in found.items()}


declarations: Final = Declarations()
"""The process's own: `schedule` fills it."""

schedule = declarations.schedule


def _job_type(one: Declaration, handlers: Registry) -> str:
    types = [
        job_type
        for job_type in handlers.job_types()
        if (spec := handlers.get(job_type)) is not None and _same(spec.function, one.function)
    ]
    if len(types) == 1:
        return types[0]
    if types:
        raise ConfigurationError(
            f"@schedule at {one.where}: the function handles {' and '.join(types)}, expected one job type: "
            "write a function for each"
        )
    raise ConfigurationError(
        f"@schedule at {one.where}: the function handles no job type: write @register_handler(…) beside it"
    )


def _same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether they are one function, with decorators around it or without."""
    return inspect.unwrap(one) is inspect.unwrap(other)


def _definition(one: Declaration, job_type: str, handlers: Registry) -> Definition:
    values = dict(one.values)
    spec = handlers.get(job_type)
    own_queue = None if spec is None else spec.policy.queue
    values["queue"] = values["queue"] or own_queue or DEFAULT_QUEUE
    values["concurrency_key"] = values["concurrency_key"] or concurrency_key_of(
        job_type, values["payload"]
    )
    return Definition(timing=one.timing, job_type=job_type, **values)
