"""JSON that PostgreSQL holds; everything else refused with words."""

import json
import math
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from service.errors import PayloadError
from service.jobs.encoding import dump_json, load_json


def dump(value: object) -> str:
    return dump_json(value, what="payload", max_bytes=100_000)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class Opaque(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    thing: object


REFUSED = [
    pytest.param({"x": math.nan}, "Out of range float|not JSON", id="NaN"),
    pytest.param([math.inf], "not JSON", id="infinity"),
    pytest.param({math.nan: 1}, "not JSON", id="NaN as a key"),
    pytest.param({"x": "a\0b"}, "NUL", id="NUL"),
    pytest.param({"a\0b": 1}, "NUL", id="NUL in a key"),
    pytest.param("\\\0", "NUL", id="NUL behind a backslash"),
    pytest.param({"x": "\ud800"}, "lone surrogate", id="lone surrogate"),
    pytest.param({"\udfff": 1}, "lone surrogate", id="lone surrogate in a key"),
    pytest.param(nested(10_000), "nested too deep", id="10,000 levels"),
    pytest.param({1, 2}, "not JSON", id="set"),
    pytest.param(b"bytes", "not JSON", id="bytes"),
    pytest.param({(1, 2): 3}, "not JSON", id="tuple as a key"),
    pytest.param(object(), "not JSON", id="object"),
    pytest.param(circle(), "not JSON", id="circle"),
    pytest.param(10**5000, "not JSON", id="integer of 5,000 digits"),
    pytest.param(Opaque(thing=object()), "not JSON", id="model with an object in it"),
    pytest.param("x" * 100_001, "at most 100000", id="too long"),
    pytest.param("ä" * 50_001, "at most 100000", id="too long in bytes"),
]


@pytest.mark.parametrize(("value", "words"), REFUSED)
def test_what_json_or_postgresql_cannot_hold_is_refused_with_words(value: Any, words: str) -> None:
    with pytest.raises(PayloadError, match=words) as caught:
        dump(value)
    assert caught.value.field == "payload"
    assert "payload" in caught.value.detail
    assert len(caught.value.detail) < 500


def test_a_text_that_only_looks_like_a_nul_is_kept() -> None:
    assert load_json(dump("\\u0000")) == "\\u0000"


def test_text_of_exactly_the_limit_is_kept() -> None:
    assert len(dump("x" * 99_998)) == 100_000


def test_a_model_is_dumped_as_its_json() -> None:
    class Mail(BaseModel):
        to: str
        at: float

    assert load_json(dump(Mail(to="ä@example.org", at=1.5))) == {"to": "ä@example.org", "at": 1.5}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=json_values)
async def test_postgresql_holds_whatever_is_not_refused(
    sql: "asyncpg.Connection[asyncpg.Record]", value: Any
) -> None:
    try:
        text = dump(value)
    except PayloadError:
        return
    kept = await sql.fetchval("SELECT ($1::text::jsonb)::text", text)
    # jsonb writes 1e20 as an integer, and so every number is read as a float here.
    assert json.loads(kept, parse_int=float) == json.loads(text, parse_int=float)


def test_any_depth_and_any_number_that_was_taken_comes_back() -> None:
    deep: object = 10**40
    for _ in range(500):
        deep = [deep]
    assert load_json(dump(deep)) == deep
    assert load_json("1.7976931348623157e308") == 1.7976931348623157e308
