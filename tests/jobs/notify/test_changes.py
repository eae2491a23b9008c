"""Dashboards are told of changes while one is open, and nobody pays for it otherwise."""

import asyncio

import pytest

from service.jobs.notify.changes import Changes
from service.jobs.notify.messages import Changed, Look, Message, Watch, decode, encode


class Told:
    """Counts what is sent."""

    def __init__(self) -> None:
        self.count = 0
        self.some = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self.some.set()


@pytest.mark.parametrize("message", [Watch(), Changed()])
def test_a_message_is_read_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "changed", "v": 2}',
        '{"kind": "new", "v": 1}',
        '{"kind": ["changed"], "v": 1}',
        "{}",
    ],
)
def test_what_a_newer_version_sends_means_look(text: str) -> None:
    assert decode(text) == Look()


async def test_while_nobody_looks_nothing_is_sent() -> None:
    told = Told()
    changes = Changes(told)
    changes.happened()
    assert changes._timer is None
    assert told.count == 0


async def test_many_changes_are_one_message_at_once_and_one_a_second_later() -> None:
    told = Told()
    changes = Changes(told)
    changes.watch()
    for _ in range(1000):
        changes.happened()
    await told.some.wait()
    assert told.count == 1
    for _ in range(1000):
        changes.happened()
    assert changes._timer is not None
    waits = changes._timer.when() - asyncio.get_running_loop().time()
    assert 0.9 < waits <= 1
    changes.close()


async def test_what_is_done_by_hand_is_told_by_a_process_that_hears_nobody() -> None:
    told = Told()
    Changes(told).announce()
    await told.some.wait()
    assert told.count == 1
