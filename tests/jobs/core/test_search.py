"""The search box: what it reads, and what it says of what it cannot read."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import JobStatus
from service.jobs.core.payload_field import PayloadField
from service.jobs.core.search import Search, search_for

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)

READ = [
    ("", JobFilters()),
    ("  \n ", JobFilters()),
    ("status:FAILED", JobFilters(statuses=frozenset({JobStatus.FAILED}))),
    (
        "status:failed,dead-letter status:PENDING",
        JobFilters(
            statuses=frozenset({JobStatus.FAILED, JobStatus.DEAD_LETTER, JobStatus.PENDING})
        ),
    ),
    ("type:mail queue:q", JobFilters(job_type="mail", queue="q")),
    ("TYPE:mail job_type:mail", JobFilters(job_type="mail")),
    ("key:abc:def", JobFilters(unique_key="abc:def")),
    ("concurrency:customer:7", JobFilters(concurrency_key="customer:7")),
    ("held:key:customer:7", JobFilters(held_for="key:customer:7")),
    ("held:*", JobFilters(held_for="*")),
    ("idempotency:order-1", JobFilters(idempotency_key="order-1")),
    ("worker:web-1:831:c0ffee", JobFilters(worker="web-1:831:c0ffee")),
    ("priority:0", JobFilters(priority=0)),
    ("cause:0123456789abcdef", JobFilters(fingerprint="0123456789abcdef")),
    ("fingerprint:0123456789ABCDEF", JobFilters(fingerprint="0123456789abcdef")),
    ("id:1,2 3", JobFilters(ids=frozenset({1, 2}))),
    ("123", JobFilters(ids=frozenset({123}))),
    ("123 456", JobFilters(ids=frozenset({123, 456}))),
    ('"123"', JobFilters(error="123")),
    ("timeout after", JobFilters(error="timeout after")),
    ('"timeout  after"', JobFilters(error="timeout  after")),
    ('error:"100% \\"of\\" it"', JobFilters(error='100% "of" it')),
    ("ValueError: no", JobFilters(error="ValueError: no")),
    ('"ValueError: no"', JobFilters(error="ValueError: no")),
    ("payload.user.id:1", JobFilters(payload=(PayloadField(("user", "id"), "1"),))),
    (
        'payload.a:"x y" payload.b:true',
        JobFilters(
            payload=(PayloadField(("a",), "x y", string_only=True), PayloadField(("b",), "true"))
        ),
    ),
    ("created:>2026-01-01", JobFilters(created_after=NEW_YEAR)),
    ("created:2026-01-01", JobFilters(created_after=NEW_YEAR, created_before=NEW_YEAR + DAY)),
    (
        "finished:2026-01-01..2026-01-01T06:00+02:00",
        JobFilters(finished_after=NEW_YEAR, finished_before=NEW_YEAR + 4 * HOUR),
    ),
    (
        "created:>2026-01-01 created:<1h",
        JobFilters(created_after=NEW_YEAR),
    ),
    ("created:<1h", JobFilters(created_after=NOW - HOUR)),
    ("finished:>24h", JobFilters(finished_before=NOW - DAY)),
    ("due:<1h", JobFilters(due_before=NOW + HOUR)),
    ("due:>1d", JobFilters(due_after=NOW + DAY)),
    ("due:<-1h", JobFilters(due_before=NOW - HOUR)),
]


@pytest.mark.parametrize(("text", "filters"), READ, ids=[text for text, _ in READ])
def test_a_search_reads_as_its_filters(text: str, filters: JobFilters) -> None:
    if text in {"id:1,2 3", "created:>2026-01-01 created:<1h"}:
        with pytest.raises(InvalidInput, match="twice"):
            Search.parse(text).filters(NOW)
        return
    assert Search.parse(text).filters(NOW) == filters


@pytest.mark.parametrize(
    "filters", [filters for _, filters in READ], ids=[text for text, _ in READ]
)
def test_filters_written_as_a_search_read_as_the_same_filters(filters: JobFilters) -> None:
    assert Search.parse(str(search_for(filters))).filters(NOW) == filters


REFUSED = [
    ("stauts:FAILED", "stauts:FAILED.*did you mean status:?"),
    ("https://x", "no field https.*double quotes"),
    ("status:BROKEN", "status:BROKEN: expected one of PENDING, RUNNING"),
    ("type:", "type: has no value"),
    ('type:""', "has no value"),
    ('error:"timeout after', "not closed"),
    ('"a"b', "touches"),
    ("type:a type:b", "type:a type:b: a job has one type. Remove one"),
    ("id:0", "id:0: expected the number of a job"),
    ("id:x", "id:x: expected"),
    ("99999999999999999999", "id:99999999999999999999: expected"),
    ("priority:10", "priority:10: expected 0"),
    ("cause:abc", "cause:abc: expected 16 of the digits"),
    ("created:yesterday", "created:yesterday: expected a day such as"),
    ("created:>999999w", "expected a day"),
    ("created:<1y", "expected a day"),
    ("created:2026-02-30", "expected a day"),
    ("created:2026-02-02..2026-02-01", "leaves no time"),
    ("payload.:1", "payload"),
    ("payload.a..b:1", "payload is"),
    ("payload.a:1 " * 6, "more than 5 payload fields"),
    ("a\0b", "NUL"),
    ("x" * 301, "301 characters long: at most 300"),
    ("x " * 10_001, "20002 characters long: at most 20000"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[text[:30] for text, _ in REFUSED])
def test_a_search_that_cannot_be_read_names_the_part_and_the_way_out(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=f"(?s){words}") as refused:
        Search.parse(text).filters(NOW)
    assert refused.value.field == "q"


@given(st.text(max_size=60) | st.text(st.sampled_from('ab1:".<>,\\ -payloid'), max_size=60))
def test_every_text_is_read_or_refused_and_reads_the_same_again(text: str) -> None:
    try:
        search = Search.parse(text)
        filters = search.filters(NOW)
    except InvalidInput:
        return
    assert Search.parse(str(search)).filters(NOW) == filters
    assert Search.parse(str(search_for(filters))).filters(NOW) == filters


def test_terms_of_one_field_are_taken_out_and_put_in() -> None:
    search = Search.parse("status:FAILED boom status:PENDING")
    assert str(search.without("status")) == "boom"
    assert str(search.without("status").also("status", "SUCCESS")) == "boom status:SUCCESS"


def test_a_value_stands_for_the_json_forms_of_its_letters() -> None:
    forms = {
        text: PayloadField.parse(f"a:{text}").forms for text in ("1", "true", "007", '"1"', "x")
    }
    assert forms == {
        "1": ['"1"', "1"],
        "true": ['"true"', "true"],
        "007": ['"007"'],
        '"1"': ['"1"'],
        "x": ['"x"'],
    }


def test_a_thousand_ids_can_be_written_as_a_search() -> None:
    filters = JobFilters(ids=frozenset(range(10**15, 10**15 + 1000)))
    assert Search.parse(str(search_for(filters))).filters(NOW) == filters


def test_every_filter_can_be_written_as_a_search() -> None:
    """A link with a filter that the search box cannot show would lose it without a word."""
    written = {name for _, filters in READ for name in filters.active()}
    assert written == set(JobFilters.__slots__)
