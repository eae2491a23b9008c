"""How a function can be called: which handlers may be registered, and whether they take a context."""

import inspect
from collections.abc import Callable
from typing import Any

from service.errors import ConfigurationError


def origin(function: Callable[..., Any]) -> str:
    """Where a function is from: its module and its name."""
    return f"{function.__module__}.{getattr(function, '__qualname__', repr(function))}"


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of the function gives a coroutine."""
    # An object with `async def __call__` is no coroutine function to inspect.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - looked at, not asked for
    )


def takes_context(job_type: str, function: Callable[..., Any]) -> bool:
    """Whether a handler is called with the context as well as with the payload.

    Raises:
        ConfigurationError: no call with these can work.
    """

    def refused(why: str) -> ConfigurationError:
        return ConfigurationError(
            f"Handler {job_type!r} ({origin(function)}): {why}; expected (payload) or (payload, ctx)"
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
