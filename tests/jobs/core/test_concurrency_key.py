"""Concurrency keys that the rule of a job type makes of payloads."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from pydantic import BaseModel

from service.errors import ConfigurationError, InvalidInput
from service.jobs import Registry
from service.jobs.core.concurrency_key import key_after_edit, key_of
from service.jobs.core.job_types import JobTypePolicy, policies

TEMPLATE: Final = "customer:{payload.customer.id}"


class Mail(BaseModel):
    """A payload."""

    customer_id: int
    to: str | None = None


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the type `mail` a rule."""

    def give(rule: Any, **more: Any) -> None:
        monkeypatch.setitem(policies, "mail", JobTypePolicy(concurrency_key=rule, **more))

    return give


def test_a_template_names_fields_of_the_payload(rule: Callable[..., None]) -> None:
    rule(TEMPLATE)
    assert key_of("mail", {"customer": {"id": 7}}) == "customer:7"
    assert key_of("other", {"customer": {"id": 7}}) is None


def test_a_function_gets_the_payload_as_the_handler_does(rule: Callable[..., None]) -> None:
    rule(lambda mail: f"customer:{mail.customer_id}", payload_model=Mail)
    assert key_of("mail", {"customer_id": "7"}) == "customer:7"
    assert key_of("mail", Mail(customer_id=7)) == "customer:7"
    assert key_of("mail", {"customer_id": "x"}) is None, "the handler refuses it, whatever the key"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, "missing"),
        ({"customer": {"id": None}}, "missing"),
        ({"customer": {"id": []}}, "single"),
    ],
    ids=str,
)
def test_a_payload_that_makes_no_key_is_refused_by_name(
    rule: Callable[..., None], payload: Any, words: str
) -> None:
    rule(TEMPLATE)
    with pytest.raises(InvalidInput, match=f"payload.customer.id is .*{words}") as error:
        key_of("mail", payload)
    assert error.value.field == "payload"


def test_a_function_that_raises_refuses_the_payload(rule: Callable[..., None]) -> None:
    rule(lambda payload: payload["customer"])
    with pytest.raises(InvalidInput, match="KeyError"):
        key_of("mail", {})


@pytest.mark.parametrize("template", ["{customer}", "x:{payload}", "{payload.a-b}", "{}"])
def test_a_template_of_anything_else_is_refused_when_it_is_registered(template: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a field of the payload"):
        Registry().handler("mail", concurrency_key=template)(lambda payload: payload)


def of_customer(customer_id: int | None) -> dict[str, Any]:
    return {"customer": {"id": customer_id}}


def test_a_key_that_the_rule_made_follows_the_payload(rule: Callable[..., None]) -> None:
    rule(TEMPLATE)
    after = {"before": of_customer(7), "after": of_customer(8)}
    assert key_after_edit("mail", "customer:7", **after) == "customer:8"
    assert key_after_edit("mail", "given", **after) is None
    assert key_after_edit("mail", None, **after) is None
    assert key_after_edit("other", "customer:7", **after) is None
    assert key_after_edit("mail", "customer:7", before=of_customer(7), after=of_customer(7)) is None
    assert key_after_edit("mail", "customer:7", before={}, after=of_customer(8)) is None
    with pytest.raises(InvalidInput, match="missing"):
        key_after_edit("mail", "customer:7", before=of_customer(7), after={})


def test_a_rule_may_make_no_key_of_the_new_payload_but_none_that_no_job_may_have(
    rule: Callable[..., None],
) -> None:
    rule(lambda payload: payload["key"])
    assert key_after_edit("mail", "k", before={"key": "k"}, after={"key": None}) == ""
    with pytest.raises(InvalidInput, match="1 to 255"):
        key_after_edit("mail", "k", before={"key": "k"}, after={"key": "x" * 256})
