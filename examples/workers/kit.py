"""A worker of the kit: `finmind_client` claims the jobs, keeps them, runs these handlers and reports.

FINMIND_URL=http://127.0.0.1:8000 FINMIND_KEY=fmj_… python kit.py
"""

import asyncio
import logging
import os

from finmind_client.worker import JobContext, PermanentError, RetryAfter, Worker

worker = Worker(
    os.environ.get("FINMIND_URL", "http://127.0.0.1:8000"),
    token=os.environ.get("FINMIND_KEY"),
    concurrency=10,
)


@worker.handler("example_hello", timeout_seconds=30, max_retries=5)
def hello(payload: dict, ctx: JobContext) -> dict:
    """A plain function runs in a thread."""
    if "name" not in payload:
        raise PermanentError("the payload has no name")  # no retry could help
    ctx.log("greeting", name=payload["name"])
    return {"greeting": f"Hello, {payload['name']}", "attempt": ctx.attempt}


@worker.handler("example_slow")
async def slow(payload: dict, ctx: JobContext) -> str:
    """A coroutine runs on an event loop; it is cancelled when it is to stop."""
    for done in range(10):
        ctx.progress(done / 10, f"{done} of 10")
        await asyncio.sleep(payload.get("seconds", 5) / 10)
    return "done"


@worker.handler("example_primes", executor="process")
def primes(payload: dict) -> int:
    """What takes the processor runs in a process, and is killed when its time is over."""
    limit = payload["below"]
    if limit > 10_000_000:
        raise RetryAfter(60, "not on this machine")
    return sum(all(n % k for k in range(2, int(n**0.5) + 1)) for n in range(2, limit))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each request
    worker.run()
