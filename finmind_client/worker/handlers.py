"""Which function handles which job type, how it is run, and what holds for jobs of the type."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from finmind_client.models import Backoff

Executor = Literal["thread", "process"]
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])

MAX_TYPES: Final = 100
"""Types that one claim names."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}")


@dataclass(frozen=True, slots=True)
class ImportPath:
    """Where another process finds a function."""

    module: str
    """Its name, or the path of a file that was run as a script."""
    name: str
    is_file: bool


@dataclass(frozen=True, slots=True)
class Handler:
    """The function of one job type."""

    job_type: str
    function: Callable[..., Any]
    is_async: bool
    takes_context: bool
    path: ImportPath | None
    """Where a process finds it; None: it runs in this one."""
    policy: Mapping[str, Any]
    """What holds for jobs of the type that say nothing themselves."""

    def arguments(self, payload: Any, context: Any) -> tuple[Any, ...]:
        """What it is called with."""
        return (payload, context) if self.takes_context else (payload,)


def handler_of(
    job_type: str,
    function: Callable[..., Any],
    *,
    executor: Executor | None,
    timeout_seconds: float | None,
    max_retries: int | None,
    backoff: Backoff | None,
) -> Handler:
    """A handler, checked.

    Raises:
        ValueError: the type, the function or the executor cannot be.
    """
    if not _NAME.fullmatch(job_type):
        raise ValueError(
            f"job_type {job_type!r}: expected 1 to 100 letters, digits or _ . : - with a letter or digit first"
        )
    is_async = inspect.iscoroutinefunction(function)
    if executor == "thread" and is_async:
        raise ValueError(
            f"executor is 'thread', and {function.__qualname__} is an `async def`: leave executor out, it runs "
            "on the event loop; or make it a plain function"
        )
    policy = {
        "timeout_seconds": None if timeout_seconds is None else float(timeout_seconds),
        "max_retries": max_retries,
        "backoff": None if backoff is None else asdict(backoff),
    }
    return Handler(
        job_type,
        function,
        is_async=is_async,
        takes_context=_takes_context(job_type, function),
        path=_path_of(function) if executor == "process" else None,
        policy={name: value for name, value in policy.items() if value is not None},
    )


def _takes_context(job_type: str, function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        pass
    else:
        return False
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise ValueError(
            f"The handler of {job_type!r} is called with the payload, or with the payload and a JobContext: "
            f"{function.__qualname__}{inspect.signature(function)} takes neither"
        ) from None
    return True


def _path_of(function: Callable[..., Any]) -> ImportPath:
    """Where a new process finds the function.

    Raises:
        ValueError: it cannot.
    """
    if os.name != "posix":
        raise ValueError(f"executor is 'process', which {sys.platform} does not have: leave it out")
    name, module = function.__qualname__, function.__module__
    if "<" in name:  # <locals>, <lambda>
        raise ValueError(
            f"executor is 'process', and {name} is defined inside a function: a process could not import it. "
            "Move it to the top of its module"
        )
    if module != "__main__":
        return ImportPath(module, name, is_file=False)
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m
        return ImportPath(main.__spec__.name, name, is_file=False)
    file = getattr(main, "__file__", None)
    if file is None:
        raise ValueError(
            f"executor is 'process', and {name} was typed at a prompt: put it into a file"
        )
    return ImportPath(str(Path(file).resolve()), name, is_file=True)
