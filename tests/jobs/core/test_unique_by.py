"""Keys made of a job's type, queue and payload."""

from collections import OrderedDict
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.jobs.core.unique_by import MAX_KEY_CHARS, key_by

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def key(payload: Any, *parts: str, **job: str) -> str:
    return key_by(parts, payload=payload, **{"job_type": "sync", "queue": "default"} | job)


def spelt_otherwise(value: Any) -> Any:
    match value:
        case bool() | None | str():
            return value
        case int() if abs(value) < 2**53:
            return float(value)
        case list():
            return [spelt_otherwise(one) for one in value]
        case dict():
            return OrderedDict((name, spelt_otherwise(value[name])) for name in reversed(value))
        case _:
            return value


@given(JSON)
def test_the_same_values_make_the_same_key_however_they_are_spelt(value: Any) -> None:
    made = key({"a": value, "b": 1}, "payload.a")
    assert key({"b": 2, "a": spelt_otherwise(value)}, "payload.a") == made


@given(JSON, JSON)
def test_different_values_make_different_keys(one: Any, other: Any) -> None:
    same = spelt_otherwise(one) == spelt_otherwise(other) and repr(spelt_otherwise(one)) == repr(
        spelt_otherwise(other)
    )
    if not same and one != other:
        assert key({"a": one}, "payload.a") != key({"a": other}, "payload.a")


@given(JSON)
def test_a_key_stays_within_its_bound(value: Any) -> None:
    made = key({"a": [value] * 20}, "payload.a")
    assert len(made) <= MAX_KEY_CHARS
    assert made.isprintable()


def test_the_order_of_the_parts_makes_no_difference_and_the_type_always_counts() -> None:
    payload = {"a": 1}
    made = key(payload, "payload.a", "queue")
    assert made == 'by:{"job_type":"sync","payload.a":1,"queue":"default"}'
    assert key(payload, "queue", "job_type", "payload.a") == made
    assert key(payload, "payload.a", "queue", queue="other") != made
    assert key(payload, "payload.a", "queue", job_type="mail") != made
    assert key(payload, "job_type") == 'by:{"job_type":"sync"}'


def test_a_long_key_is_a_digest() -> None:
    made = key({"a": "x" * 300}, "payload.a")
    assert made.startswith("by:sha256:")
    assert key({"a": "x" * 301}, "payload.a") != made


@dataclass
class Order:
    total: Decimal


def test_a_payload_that_is_no_json_counts_as_it_is_stored() -> None:
    assert key(Order(Decimal("1.50")), "payload.total") == key({"total": "1.50"}, "payload.total")


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (["payload.b"], "no such field"),
        (["payload.a.b"], "no such field"),
        (["payload"], "expected job_type, queue"),
        (["payload."], "expected job_type, queue"),
        (["priority"], "expected job_type, queue"),
        ([[]], "expected job_type, queue"),
        ([], "list of 1 to 20"),
        ("queue", "list of 1 to 20"),
        (["queue", "queue"], "named twice"),
        (["queue"] * 21, "list of 1 to 20"),
    ],
)
def test_a_part_that_names_nothing_is_refused_with_words(parts: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        key_by(parts, job_type="sync", queue="default", payload={"a": 1})
    assert refused.value.field == "unique_by"


def test_null_is_a_value_like_any_other() -> None:
    assert key({"a": None}, "payload.a") == 'by:{"job_type":"sync","payload.a":null}'
