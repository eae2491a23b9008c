"""JSON that PostgreSQL holds; everything else refused with words."""

import dataclasses
import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field
from pydantic_core import to_jsonable_python

from service.errors import PayloadError
from service.jobs.core.encoding import dump_json, load_json


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
    pytest.param(b"\xff", "not JSON", id="bytes that are no text"),
    pytest.param({object(): 3}, "not JSON", id="object as a key"),
    pytest.param(object(), "not JSON", id="object"),
    pytest.param([iter([1])], "make it a list", id="iterator"),
    pytest.param((n for n in range(3)), "make it a list", id="generator"),
    pytest.param({date(2026, 1, 1): math.nan}, "not JSON", id="NaN beside a date as a key"),
    pytest.param(circle(), "not JSON", id="circle"),
    pytest.param(10**5000, "not JSON", id="integer of 5,000 digits"),
    pytest.param(Opaque(thing=object()), "not JSON", id="model with an object in it"),
    pytest.param("x" * 100_001, "at most 100000", id="too long"),
    pytest.param("ä" * 50_001, "at most 100000", id="too long in bytes"),
]


@pytest.mark.parametrize(("value", "words"), REFUSED)
def test_a_value_that_cannot_be_stored_is_refused_with_the_reason(value: Any, words: str) -> None:
    with pytest.raises(PayloadError, match=words) as caught:
        dump(value)
    assert caught.value.field == "payload"
    assert "payload" in caught.value.detail
    assert len(caught.value.detail) < 500


class Colour(Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: float
    at: datetime


class Renamed(BaseModel):
    name: str = Field(alias="theName")


MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UNIQUE = UUID(int=7)
TAKEN = [
    MOMENT,
    date(2026, 1, 2),
    UNIQUE,
    Point(1.5, MOMENT),
    Decimal("1.10"),
    Colour.RED,
    {1},
    b"text",
    {"deep": [{"in": (MOMENT, Point(0, MOMENT))}]},
    {UNIQUE: 1, MOMENT: 2, (1, 2): 3},
    Renamed(theName="x"),
    [Renamed(theName="x")],
]


@pytest.mark.parametrize("value", TAKEN, ids=repr)
def test_values_are_written_as_pydantic_writes_them(value: object) -> None:
    assert load_json(dump(value)) == to_jsonable_python(value)


def test_a_models_own_code_that_fails_is_named() -> None:
    class Broken(BaseModel):
        @computed_field  # type: ignore[prop-decorator]
        @property
        def total(self) -> int:
            raise KeyError("no total")

    with pytest.raises(PayloadError, match=r"not JSON.*no total"):
        dump(Broken())


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(value=st.lists(numbers, min_size=1) | st.dictionaries(st.text('e+1,:\\"ä'), numbers))
@example([5e-324])
@example([-1.7976931348623157e308, 1e16, 1.25e-5, -1e-300])
async def test_the_bound_is_on_the_size_as_postgresql_writes_it(
    sql: "asyncpg.Connection[asyncpg.Record]", value: Any
) -> None:
    written = await sql.fetchval(
        "SELECT octet_length(($1::text::jsonb)::text)", json.dumps(value, ensure_ascii=False)
    )
    # PostgreSQL writes a zero without its sign.
    zeros = json.dumps(value).count("-0.0")
    dump_json(value, what="payload", max_bytes=written + zeros)
    with pytest.raises(PayloadError, match=f"at most {written - 1} are"):
        dump_json(value, what="payload", max_bytes=written - 1)


def test_numbers_that_postgresql_writes_in_full_count_in_full() -> None:
    with pytest.raises(PayloadError, match=r"takes 115\d{5} bytes as PostgreSQL writes it"):
        dump_json({"a": [1e308] * 37_000}, what="payload", max_bytes=262_144)


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
