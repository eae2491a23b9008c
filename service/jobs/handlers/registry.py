"""Which function handles which job type, and what is known of the type."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from re import fullmatch
from typing import Any, TypeVar

from pydantic import BaseModel

from service.errors import ConfigurationError
from service.jobs.core.backoff import Backoff
from service.jobs.core.job import NAME_PATTERN, NAME_RULE

Handler = Callable[..., Awaitable[Any]] | Callable[..., Any]
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One job type: its function and its limits. None means the service's default."""

    job_type: str
    function: Handler
    is_async: bool
    takes_context: bool
    timeout_seconds: float | None
    max_retries: int | None
    backoff: Backoff | None
    payload_model: type[BaseModel] | None
    queue: str | None
    internal: bool = False


class Registry:
    """The handlers of one process, by job type."""

    def __init__(self) -> None:
        self._specs: dict[str, HandlerSpec] = {}

    def handler(
        self,
        job_type: str,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        backoff: Backoff | None = None,
        payload_model: type[BaseModel] | None = None,
        queue: str | None = None,
        internal: bool = False,
    ) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function for `job_type`.

        The function takes the payload, and the `JobContext` where it has a second parameter.
        It may be a coroutine function, or a plain one, which then runs in a thread; what that
        returns is awaited where it can be.

        Args:
            job_type: the name that jobs are enqueued under.
            timeout: seconds that one attempt may take.
            max_retries: retries after the first attempt.
            backoff: delays between attempts.
            payload_model: the pydantic model that the payload is handed over as; a payload that
                it refuses makes the job FAILED.
            queue: the queue of jobs of this type that name none.
            internal: whether clients of the API may not enqueue such jobs.

        Raises:
            ConfigurationError: the name, a limit or the signature breaks a rule, or the type is
                taken by another function.
        """
        if not isinstance(job_type, str):
            # A decorator without brackets would take the function, and register nothing.
            raise ConfigurationError(
                f"The job type is {job_type!r}, expected its name: "
                '@register_handler("send_welcome") above the function'
            )

        def register(function: HandlerT) -> HandlerT:
            self.add(
                HandlerSpec(
                    job_type=job_type,
                    function=function,
                    is_async=_is_async(function),
                    takes_context=_takes_context(job_type, function),
                    timeout_seconds=timeout,
                    max_retries=max_retries,
                    backoff=backoff,
                    payload_model=payload_model,
                    queue=queue,
                    internal=internal,
                )
            )
            return function

        return register

    def add(self, spec: HandlerSpec) -> None:
        """Take `spec` in; see `handler` for what is refused."""
        name = spec.job_type
        if not fullmatch(NAME_PATTERN, name):
            raise ConfigurationError(f"Job type {name!r}: expected {NAME_RULE}")
        _check_kinds(spec)
        if spec.queue is not None and not fullmatch(NAME_PATTERN, spec.queue):
            raise ConfigurationError(f"Handler {name!r}: bad queue name {spec.queue!r}")
        if spec.timeout_seconds is not None and not spec.timeout_seconds > 0:
            raise ConfigurationError(
                f"Handler {name!r}: timeout is {spec.timeout_seconds!r}, expected seconds above 0"
            )
        if spec.max_retries is not None and not 0 <= spec.max_retries <= 1000:
            raise ConfigurationError(
                f"Handler {name!r}: max_retries is {spec.max_retries!r}, expected 0 to 1000"
            )
        standing = self._specs.get(name)
        if standing is not None and _origin(standing.function) != _origin(spec.function):
            raise ConfigurationError(
                f"Job type {name!r} is handled twice: by {_origin(standing.function)} "
                f"and by {_origin(spec.function)}"
            )
        self._specs[name] = spec

    def get(self, job_type: str) -> HandlerSpec | None:
        """What is known of `job_type`; None where this process has no handler for it."""
        return self._specs.get(job_type)

    def job_types(self) -> list[str]:
        """Every job type with a handler here, sorted."""
        return sorted(self._specs)

    def queues(self) -> set[str]:
        """The queues that handlers name for their jobs."""
        return {spec.queue for spec in self._specs.values() if spec.queue is not None}


registry = Registry()
"""The process's own registry: what `register_handler` fills and workers use unless told otherwise."""

register_handler = registry.handler


def _check_kinds(spec: HandlerSpec) -> None:
    """Refuse what would fail with every job only."""
    model: object = spec.payload_model
    for argument, value, kind in (
        ("timeout", spec.timeout_seconds, (int, float)),
        ("max_retries", spec.max_retries, (int,)),
        ("backoff", spec.backoff, (Backoff,)),
        ("queue", spec.queue, (str,)),
    ):
        if value is not None and not isinstance(value, kind):
            raise ConfigurationError(
                f"Handler {spec.job_type!r}: {argument} is {value!r}, expected "
                f"{' or '.join(one.__name__ for one in kind)}"
            )
    if model is not None and not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigurationError(
            f"Handler {spec.job_type!r}: payload_model is {model!r}, expected a pydantic BaseModel"
        )


def _origin(function: Handler) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}"


def _is_async(function: Callable[..., Any]) -> bool:
    # An object with `async def __call__` is no coroutine function to inspect.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - looked at, not asked for
    )


def _takes_context(job_type: str, function: Callable[..., Any]) -> bool:
    """Whether a handler is called with the context as well as with the payload.

    Raises:
        ConfigurationError: no call with these can work.
    """

    def refused(why: str) -> ConfigurationError:
        return ConfigurationError(
            f"Handler {job_type!r} ({_origin(function)}): {why}; expected (payload) or (payload, ctx)"
        )

    if _is_generator(function):
        raise refused(
            "it is a generator function, whose body a call does not run: return, not yield"
        )
    parameters = _parameters(function)
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [parameter for parameter in positional if parameter.default is parameter.empty]
    if not positional or len(required) > 2:
        raise refused(
            f"{len(required)} arguments are required by position (a decorator that takes *args "
            "must use functools.wraps)"
        )
    for parameter in parameters:
        by_keyword = parameter.kind is parameter.KEYWORD_ONLY
        if by_keyword and parameter.default is parameter.empty:
            raise refused(f"{parameter.name} is keyword-only, and nothing is passed by keyword")
        if parameter.default is None and _is_context(parameter):
            raise refused(
                f"{parameter.name}=None would always be None: the context is handed to a second "
                "parameter without a default"
            )
    return len(required) == 2


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Those of the function that is called; of what it wraps where it passes all on."""
    own = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in own):
        return list(inspect.signature(function).parameters.values())
    return own


def _is_context(parameter: inspect.Parameter) -> bool:
    return parameter.name in {"ctx", "context"} or "JobContext" in str(parameter.annotation)


def _is_generator(function: Callable[..., Any]) -> bool:
    return any(
        inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called)
        for called in (function, getattr(function, "__call__", None))  # noqa: B004 - as above
    )
