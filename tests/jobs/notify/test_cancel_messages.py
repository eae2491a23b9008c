"""Notifications that somebody asked for a cancel: written, and read whoever wrote them."""

import json

import pytest

from service.jobs.core.job import MAX_ID, JobId
from service.jobs.notify.messages import (
    MAX_IDS,
    MAX_NOTIFY_BYTES,
    Cancel,
    Look,
    decode,
    encode,
)


@pytest.mark.parametrize("ids", [(), (1,), (7, MAX_ID)])
def test_a_cancel_is_read_as_it_was_written(ids: tuple[JobId, ...]) -> None:
    assert decode(encode(Cancel(ids))) == Cancel(ids)


def test_a_cancel_of_more_jobs_than_fit_names_none() -> None:
    most = tuple(JobId(MAX_ID - number) for number in range(MAX_IDS))
    text = encode(Cancel(most))
    assert decode(text) == Cancel(most)
    assert len(text) <= MAX_NOTIFY_BYTES
    assert decode(encode(Cancel((JobId(1), *most)))) == Cancel(())


@pytest.mark.parametrize(
    "value",
    ['{"ids": 7}', '{"ids": null}', '{"ids": ["x"]}', '{"ids": [0]}', '{"ids": [-1]}', "{}",
     '{"ids": [9223372036854775808]}', '{"ids": [[1]]}', '{"ids": [1e400]}', '{"ids": [null]}'],
)  # fmt: skip
def test_a_cancel_that_is_not_ours_means_look(value: str) -> None:
    message = {"kind": "cancel", "v": 1} | json.loads(value)
    assert decode(json.dumps(message)) == Look()


def test_a_cancel_of_a_version_to_come_means_look() -> None:
    assert decode('{"kind": "cancel", "v": 2, "ids": [1]}') == Look()
