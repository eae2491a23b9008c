import pytest

from service.jobs.store.statement import Statement

LATE = Statement(
    "SELECT :name::text, '$[$first to last]', ': no parameter', now()::date"
    " WHERE a < :limit AND b = :name"
)


def test_parameters_are_numbered_in_the_order_in_which_they_first_appear() -> None:
    assert LATE.sql == (
        "SELECT $1::text, '$[$first to last]', ': no parameter', now()::date"
        " WHERE a < $2 AND b = $1"
    )
    assert LATE.names == ("name", "limit")


def test_values_are_sent_in_the_order_of_the_text() -> None:
    assert LATE.bind(limit=3, name=None) == (LATE.sql, None, 3)
    assert Statement("SELECT 1").bind() == ("SELECT 1",)


def test_a_parameter_that_is_missing_or_unknown_is_named() -> None:
    with pytest.raises(TypeError, match="missing name, unknown names; in SELECT :name"):
        LATE.bind(limit=3, names="x")
