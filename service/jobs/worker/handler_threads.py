"""Handlers that are plain functions: each call runs in a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any


class HandlerThreads:
    """Calls plain functions in up to `limit` threads at once."""

    def __init__(self, limit: int) -> None:
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="finmind-handler")
        self._free = asyncio.Semaphore(limit)

    async def call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], *, begin: Callable[[], None]
    ) -> Any:
        """What `function` returns or raises, once a thread was free and it has ended.

        Args:
            function: the handler.
            arguments: what it is called with.
            begin: called when a thread is free, just before the handler.
        """
        async with self._free:
            begin()
            loop = asyncio.get_running_loop()
            return await _to_its_end(
                loop.run_in_executor(self._pool, _call, copy_context(), function, arguments)
            )

    def close(self) -> None:
        """Begin no more calls; those that run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _to_its_end(call: asyncio.Future[Any]) -> Any:
    """Wait for a call in a thread, cancelled or not: a thread cannot be stopped, only be asked to.

    As for a coroutine that does not stop, the slot is kept until it has ended.
    """
    cancelled: asyncio.CancelledError | None = None
    while not call.done():
        try:
            await asyncio.wait({call})
        except asyncio.CancelledError as error:
            if cancelled is not None:
                raise  # not by the executor, which cancels once: the process ends
            cancelled = error
    if cancelled is not None and call.exception() is None:
        if asyncio.iscoroutine(call.result()):
            call.result().close()  # nobody will await it
        raise cancelled
    return call.result()


def _call(context: Context, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return context.run(function, *arguments)
    except StopIteration as error:
        # A future cannot carry StopIteration.
        raise RuntimeError("the handler raised StopIteration") from error
