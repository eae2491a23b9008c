"""Dashboards are told of changes while one is open, and nobody pays for it otherwise."""

import asyncio

import pytest

from service.jobs.core.job import JobId
from service.jobs.notify.changes import Changes
from service.jobs.notify.followed import MAX_FOLLOWED, Followed
from service.jobs.notify.messages import (
    MAX_NOTIFY_BYTES,
    Changed,
    Follow,
    Look,
    Message,
    Moved,
    Watch,
    decode,
    encode,
)


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


@pytest.mark.parametrize(
    "message", [Follow((JobId(1), JobId(2**63 - 1)), "a1b2"), Moved((JobId(7),))]
)
def test_who_follows_a_job_is_read_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "follow", "v": 1, "ids": [0], "by": ""}',
        '{"kind": "moved", "v": 1, "ids": [9223372036854775808]}',
        '{"kind": "moved", "v": 1, "ids": 1}',
        '{"kind": "follow", "v": 1, "ids": [1]}',
    ],
)
def test_jobs_that_cannot_be_mean_look(text: str) -> None:
    assert decode(text) == Look()


def test_only_jobs_that_another_process_follows_are_told_of() -> None:
    told: list[Message] = []
    here, elsewhere = Followed(told.append, name="here"), Followed(told.append, name="elsewhere")
    here.moved_here(iter([JobId(1)]))
    assert not here.some
    elsewhere.follow([JobId(one) for one in range(1, 302)])
    asked, told[:] = list(told), []
    assert [len(message.ids) for message in asked if isinstance(message, Follow)] == [300, 1]
    for message in asked:
        assert len(encode(message)) < MAX_NOTIFY_BYTES
        assert isinstance(message, Follow)
        here.heard_follow(message)
        elsewhere.heard_follow(message)
    assert (here.some, elsewhere.some) == (True, False)
    here.moved_here([JobId(999), JobId(301), JobId(5)])
    assert told == [Moved((JobId(301), JobId(5)))]


def test_a_process_remembers_so_many_jobs_of_others_and_no_more() -> None:
    followed = Followed(lambda _: None)
    for first in range(1, MAX_FOLLOWED + 1000, 300):
        followed.heard_follow(Follow(tuple(JobId(first + n) for n in range(300)), "stranger"))
    assert len(followed._until) == MAX_FOLLOWED
