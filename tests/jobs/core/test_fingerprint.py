"""What dead letters with the same cause have in common, and nothing else."""

import time

import pytest

from service.jobs.core import fingerprint
from service.jobs.core.failures import MAX_MESSAGE_CHARS
from service.jobs.core.fingerprint import cause_of, normalise, overflow_of

TRACEBACK = """\
Traceback (most recent call last):
  File "/app/releases/{release}/shop/mail.py", line {line}, in send
    client.send(letter)
  File "/app/.venv/lib/python3.11/site-packages/mailer/client.py", line 7, in send
    raise TimeoutError
TimeoutError: no answer
"""


def mark(message: str = "no answer", traceback: str | None = None, **changed: str) -> str:
    given = {"job_type": "mail", "kind": "TimeoutError"} | changed
    return cause_of(given["job_type"], given["kind"], message, traceback).fingerprint


@pytest.mark.parametrize(
    ("message", "normalised"),
    [
        ("user 7 not found", "user # not found"),
        ("took 1.5 s, 30% more than 00:30:00", "took # s, #% more than #"),
        ("Could not connect to 10.0.0.1:5432", "Could not connect to #"),
        ("customer cus_9s6XKzkNRiz8i3 is gone", "customer cus_# is gone"),
        ("123e4567-e89b-12d3-a456-426614174000 is gone", "# is gone"),
        ("commit 8f72670ab1 by deadbeef", "commit # by deadbeef"),
        ("<Order object at 0x7f00aa12>", "<Order object at #>"),
        ("key \"a\" of 'b' and `c` and “d”", "key '…' of '…' and '…' and '…'"),
        ("can't read the customer's cart", "can't read the customer's cart"),
        ("missing ['a', 'b', 'c'] or [1, 2]", "missing ['…'] or [#]"),
        ("no mail to bob.smith+x@example.com", "no mail to <address>"),
        ("GET https://api.example.com/v1/users/77?x=1 failed", "GET <address> failed"),
        ("utf8 in s3,\n\n  twice", "utf# in s#, twice"),
    ],
)
def test_a_message_loses_what_differs_from_job_to_job(message: str, normalised: str) -> None:
    assert normalise(message) == normalised


def test_the_type_of_job_and_error_and_the_words_tell_causes_apart() -> None:
    assert mark("no answer to 1") == mark("no answer to 22")
    others = [mark(), mark("refused"), mark(kind="OSError"), mark(job_type="fax")]
    assert len(set(others)) == 4
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in others)


def test_a_deploy_that_moves_files_and_lines_keeps_the_cause() -> None:
    one = mark(traceback=TRACEBACK.format(release=7, line=12))
    assert mark(traceback=TRACEBACK.format(release=8, line=40)) == one
    assert mark(traceback=TRACEBACK.format(release=8, line=40).replace("in send\n    cl", "in post\n    cl")) != one  # fmt: skip


@pytest.mark.parametrize(
    "file",
    [
        "/app/.venv/lib/python3.11/site-packages/mailer/client.py",
        "/usr/lib/python3/dist-packages/mailer.py",
        "/usr/local/lib/python3.11/asyncio/tasks.py",
        "C:\\Python311\\Lib\\asyncio\\tasks.py",
        "<frozen importlib._bootstrap>",
        "/srv/finmind/service/jobs/enqueue/enqueue.py",
    ],
)
def test_frames_of_libraries_and_of_the_engine_do_not_count(file: str) -> None:
    library = f'  File "{file}", line 1, in deep\n'
    own = 'Traceback (most recent call last):\n  File "/app/mail.py", line 1, in send\n'
    assert mark(traceback=own + library) == mark(traceback=own)


def test_a_handler_that_is_installed_itself_is_its_outermost_frame() -> None:
    begin = "Traceback (most recent call last):\n"
    handler = '  File "/venv/lib/python3.11/site-packages/shop/{}.py", line 1, in send\n'
    library = '  File "/venv/lib/python3.11/site-packages/http/x.py", line 1, in get\n'
    one, other = (mark(traceback=begin + handler.format(name) + library) for name in ("a", "b"))
    assert one != other
    assert mark(traceback=begin + handler.format("a")) == one


def test_the_error_that_was_raised_last_counts_not_the_one_that_it_came_from() -> None:
    first = 'Traceback (most recent call last):\n  File "/app/{}.py", line 1, in x\nKeyError: 1\n\n'
    last = 'Traceback (most recent call last):\n  File "/app/mail.py", line 1, in send\n'
    assert mark(traceback=first.format("a") + last) == mark(traceback=first.format("b") + last)


HOSTILE = (
    "a", "'", '"', "'a", "a'", "1.", "0", "f", "a@", "a.", "+", "://", "h:", "http://", "a-",
    "deadbeef-", " ", "# ", "'…' ", "``", "“", "“a", "é", "1 ", "0x", "aaaaaaaaa1 ", "12345678-1234-",
    "abcdefgh+", "\n", "x:/", "\x00", "#, ",
)  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
def test_a_hostile_message_takes_less_than_a_millisecond(part: str) -> None:
    message = (part * MAX_MESSAGE_CHARS)[:MAX_MESSAGE_CHARS]
    # The fastest of several: a machine that has other work may take longer for each of twenty.
    assert any(_seconds(message) < 0.001 for _ in range(500))


def _seconds(message: str) -> float:
    began = time.perf_counter()
    cause_of("mail", "Error", message, 'File "' * 1_000)
    return time.perf_counter() - began


def test_what_plain_sql_wrote_is_read_up_to_a_bound() -> None:
    long = "word " * 1_000_000
    cause = cause_of("mail", "K" * 1_000_000, long, "\n" * 1_000_000)
    assert len(cause.title) <= fingerprint.MAX_TITLE_CHARS
    assert len(cause.kind) <= fingerprint.MAX_KIND_CHARS


def test_the_group_beyond_the_limit_is_that_of_its_type() -> None:
    assert len({overflow_of("mail"), overflow_of("fax"), overflow_of(None)}) == 3


def test_another_version_of_the_rule_makes_other_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    before = mark()
    monkeypatch.setattr(fingerprint, "RULE_VERSION", 2)
    assert mark() != before
