"""Demo handlers and jobs: some succeed, some are slow, some need retries, some never succeed.

Importing this module registers the handlers.
"""

import asyncio
import random
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from service.jobs import Backoff, JobContext, NewJob, PermanentError, register_handler

_SOON: Final = Backoff(base_seconds=2, factor=2, cap_seconds=10)
"""Retries short enough to watch."""

# job type: of each twenty jobs of the mix
MIX: Final = {
    "demo.ok": 13,
    "demo.slow": 3,
    "demo.flaky": 2,
    "demo.dies": 1,
    "demo.permanent": 1,
}
MIX_SIZE: Final = sum(MIX.values())


class DemoPayload(BaseModel):
    """What the demo's handlers read; every field has a default."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(0, description="Which job of the batch it is.")
    seconds: float = Field(1.0, ge=0, le=60, description="How long `demo.slow` takes.")
    failures: int = Field(1, ge=0, le=100, description="How often `demo.flaky` fails first.")


class CountedPayload(DemoPayload):
    """What `demo.ok` reads, which a batch may enqueue when it is complete."""

    batch: dict[str, Any] | None = Field(None, description="What a batch tells of itself.")


@register_handler("demo.ok", payload_model=CountedPayload)
async def ok(payload: CountedPayload) -> dict[str, int]:
    """Succeed at once; the result is the number."""
    return {"number": payload.number}


@register_handler("demo.slow", payload_model=DemoPayload)
async def slow(payload: DemoPayload, ctx: JobContext) -> dict[str, float]:
    """Take `seconds`, reporting progress."""
    steps = 4
    for step in range(1, steps + 1):
        await asyncio.sleep(payload.seconds / steps)
        await ctx.progress(step / steps, f"step {step} of {steps}")
        ctx.log(f"step {step} done", seconds=payload.seconds / steps)
    return {"seconds": payload.seconds}


@register_handler("demo.flaky", payload_model=DemoPayload, backoff=_SOON)
async def flaky(payload: DemoPayload, ctx: JobContext) -> dict[str, int]:
    """Fail `failures` times, then succeed."""
    ctx.log("connecting", number=payload.number)
    if ctx.attempt <= payload.failures:
        ctx.log("the other side hung up", level="warning", attempt=ctx.attempt)
        raise ConnectionError(f"the other side hung up (attempt {ctx.attempt})")
    return {"attempts": ctx.attempt}


@register_handler("demo.permanent", payload_model=DemoPayload)
async def permanent(payload: DemoPayload) -> None:
    """Fail in a way that a retry cannot help: FAILED at once."""
    raise PermanentError(f"number {payload.number} does not exist")


@register_handler("demo.dies", payload_model=DemoPayload, max_retries=2, backoff=_SOON)
async def dies(payload: DemoPayload) -> None:
    """Fail every time: DEAD_LETTER after its retries."""
    raise RuntimeError(f"number {payload.number} cannot be done today either")


def mix(jobs: int, *, seed: int | None = None) -> Iterator[NewJob]:
    """That many jobs in the proportions of `MIX`, in random order.

    Each twenty contain every kind in its share and start with one of each: five jobs show them all.
    """
    chance = random.Random(seed)  # noqa: S311 - a lively mix, not cryptography
    for number in range(jobs):
        position = number % MIX_SIZE
        if position == 0:
            dealt = _deal(chance)
        payload = {"number": number, "seconds": chance.choice((0.5, 1, 2)), "failures": 1}
        yield NewJob(dealt[position], payload)


def _deal(chance: random.Random) -> list[str]:
    """Twenty job types, one of each first."""
    kinds = list(MIX)
    rest = [kind for kind, share in MIX.items() for _ in range(share - 1)]
    chance.shuffle(kinds)
    chance.shuffle(rest)
    return kinds + rest
