"""The replay of a ledger finds what went on at once, and what was over a limit."""

import itertools

from tests.chaos.checker import Finding
from tests.chaos.concurrency import concurrency
from tests.chaos.ledger import Event, Note

GROUPS = dict.fromkeys(range(1, 10), ("key", "queue"))
LIMITS = {"key": 1, "queue": 2}


def ledger(*events: tuple[str, int, int, int]) -> list[Note]:
    """Of events, job ids, tokens and processes."""
    clock = itertools.count(1.0)
    return [
        Note(event, job_id, lease_token=token, pid=pid, at=next(clock))
        for event, job_id, token, pid in events
    ]


def kill(pid: int) -> Note:
    return Note(Event.OVER, pid=pid, detail="kill")


def test_runs_one_after_the_other_are_one_at_once() -> None:
    notes = ledger(
        (Event.START, 1, 11, 5), (Event.END, 1, 11, 5),
        (Event.START, 2, 12, 6), (Event.FAIL, 2, 12, 6),
        (Event.START, 2, 13, 6), (Event.LEFT, 2, 13, 6),
    )  # fmt: skip
    found = concurrency(notes, GROUPS, LIMITS)
    assert found.peaks == {"key": 1, "queue": 1}
    assert (found.over, found.taken_over, found.killed) == ([], 0, 0)


def test_a_run_that_begins_over_a_limit_is_found() -> None:
    notes = ledger((Event.START, 1, 11, 5), (Event.START, 2, 12, 6), (Event.END, 1, 11, 5))
    found = concurrency(notes, GROUPS, LIMITS)
    assert found.over == [Finding(2, "was run 2 of key at once, in 6")]
    assert found.peaks == {"key": 2, "queue": 2}


def test_a_run_goes_on_until_its_job_is_claimed_elsewhere() -> None:
    stalled, other = (Event.START, 1, 11, 5), (Event.START, 2, 12, 6)
    taken = (Event.CLAIMED, 1, 13, 6)
    assert concurrency(ledger(stalled, other, taken), GROUPS, LIMITS).over
    found = concurrency(ledger(stalled, taken, other, (Event.END, 1, 11, 5)), GROUPS, LIMITS)
    assert (found.over, found.taken_over) == ([], 1)


def test_a_run_ends_with_its_process() -> None:
    first, second = ledger((Event.START, 1, 11, 5), (Event.START, 2, 12, 6))
    found = concurrency([first, kill(5), second], GROUPS, LIMITS)
    assert (found.over, found.killed) == ([], 1)
    assert concurrency([first, kill(6), second], GROUPS, LIMITS).over
