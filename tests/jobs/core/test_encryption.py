"""Payloads that are kept encrypted: what is stored, what comes back, what is refused."""

from typing import Any

import pytest

from service.errors import ConfigurationError, InvalidInput
from service.jobs import NewJob, Registry
from service.jobs.core import payload_keys
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.encoding import load_json
from service.jobs.core.encrypted_edits import check_merge, resealed
from service.jobs.core.encryption import digested, opened, seal, sealing_of
from service.jobs.core.payload_keys import (
    AlteredCiphertext,
    PayloadKeyMissing,
    PayloadKeys,
    use_keys,
)

NEW, OLD = "B" * 43 + "=", "A" * 43 + "="
CARD = {"card": "4111", "customer": {"iban": "DE", "name": "Ada"}, "n": 1.5}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_keys, "_own", None)
    use_keys(PayloadKeys([NEW, OLD]))


def stored(job: NewJob) -> Any:
    return load_json(encode_jobs([job], max_payload_bytes=10_000).columns["payload"][0])


@pytest.mark.parametrize(
    ("payload", "encrypt", "plain"),
    [
        (CARD, ["card"], {"customer": {"iban": "DE", "name": "Ada"}, "n": 1.5}),
        (CARD, ["customer.iban", "card"], {"customer": {"name": "Ada"}, "n": 1.5}),
        (CARD, ["customer"], {"card": "4111", "n": 1.5}),
        (CARD, True, {}),
        ([1, {"a": None}], True, {}),
        ({"card": None}, ["card"], {}),
    ],
)
def test_what_is_encrypted_is_not_in_the_table_and_comes_back_as_it_was(
    payload: Any, encrypt: Any, plain: Any
) -> None:
    kept = stored(NewJob("charge", payload, encrypt=encrypt))
    assert kept.pop("$ciphertext").startswith(f"1.{payload_keys.payload_keys().names[0]}.")
    assert kept.pop("$encrypted") == (True if encrypt is True else sorted(encrypt))
    assert kept == plain
    again = stored(NewJob("charge", payload, encrypt=encrypt))
    assert opened(again, job_type="charge") == payload


def test_a_job_without_the_member_and_one_that_asks_for_nothing_are_stored_as_they_are() -> None:
    assert stored(NewJob("charge", {"n": 1}, encrypt=["card"])) == {"n": 1}
    assert stored(NewJob("charge", {"card": 1}, encrypt=False)) == {"card": 1}
    assert stored(NewJob("charge", encrypt=True)) == {}


def test_a_ciphertext_is_worth_nothing_elsewhere_or_altered() -> None:
    kept = seal(CARD, ("card",), job_type="charge")
    text = kept["$ciphertext"]
    for other in (
        kept | {"$encrypted": ["n"]},
        kept | {"$encrypted": True},
        kept | {"$ciphertext": text[:-6] + "AAAAA="},
        kept | {"$ciphertext": "2" + text[1:]},
        kept | {"$ciphertext": 7},
    ):
        with pytest.raises(AlteredCiphertext):
            opened(other, job_type="charge")
    with pytest.raises(AlteredCiphertext, match="moved from another type"):
        opened(kept, job_type="refund")


def test_the_first_key_encrypts_every_key_decrypts_and_a_missing_one_is_named() -> None:
    use_keys(PayloadKeys([OLD]))
    old = seal(CARD, True, job_type="charge")
    use_keys(PayloadKeys([NEW, OLD]))
    assert opened(old, job_type="charge") == CARD
    new = seal(CARD, True, job_type="charge")
    use_keys(PayloadKeys([OLD]))
    name = PayloadKeys([NEW]).names[0]
    with pytest.raises(PayloadKeyMissing, match=f"encrypted with key '{name}'.*add that key"):
        opened(new, job_type="charge")


@pytest.mark.parametrize("key", ["x", "AAAA", "A" * 44, "é"])
def test_a_key_that_is_none_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="openssl rand -base64 32") as refused:
        PayloadKeys.parse(f"{NEW}, {key}")
    assert key not in refused.value.detail.removeprefix("PAYLOAD_KEYS") or len(key) < 3


@pytest.mark.parametrize(
    ("job", "field", "words"),
    [
        (NewJob("a", {}, encrypt="card"), "encrypt", "expected true, or a list"),
        (NewJob("a", {}, encrypt=["a..b"]), "encrypt", "expected a member"),
        (NewJob("a", {}, encrypt=["$encrypted"]), "encrypt", "expected a member"),
        (NewJob("a", {}, encrypt=["a"] * 21), "encrypt", "up to 20"),
        (NewJob("a", [1], encrypt=["card"]), "encrypt", "encrypt: true"),
        (NewJob("a", {"cards": [{"no": 1}]}, encrypt=["cards.no"]), "encrypt", "name 'cards'"),
        (NewJob("a", {"a": {"b": []}}, encrypt=["a.b.0"]), "encrypt", r"payload\.a\.b is a list"),
        (NewJob("a", {"$encrypted": ["card"]}), "payload", "the service alone writes"),
        (NewJob("a", {"$ciphertext": "1.a.b"}, encrypt=True), "payload", "the service alone"),
        (NewJob("a", CARD, encrypt=["card"], unique_by=["payload.card"]), "unique_by", "card is"),
        (NewJob("a", CARD, encrypt=["customer"], unique_by=["payload.customer.name"]), "unique_by",
         r"payload\.customer is encrypted"),
        (NewJob("a", CARD, encrypt=["customer.iban"], unique_by=["payload.customer"]), "unique_by",
         r"payload\.customer\.iban is encrypted"),
        (NewJob("a", CARD, encrypt=True, unique_by=["payload.n"]), "unique_by", "whole payload"),
    ],
)  # fmt: skip
def test_what_cannot_be_encrypted_is_refused_with_the_way_out(
    job: NewJob, field: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        stored(job)
    assert refused.value.field == field


def test_without_a_key_nothing_is_stored_in_its_place() -> None:
    use_keys(PayloadKeys([]))
    with pytest.raises(InvalidInput, match="PAYLOAD_KEYS of the process"):
        stored(NewJob("charge", CARD, encrypt=["card"]))
    stored(NewJob("charge", CARD))


def test_keys_of_limits_are_made_of_nothing_encrypted() -> None:
    handlers = Registry()
    for key, words in (("c:{payload.card}", "payload.card is encrypted"), (str, "is a function")):
        with pytest.raises(ConfigurationError, match=words):
            handlers.handler("charge", encrypt=["card"], concurrency_key=key)(lambda _: None)
    with pytest.raises(ConfigurationError, match="expected a member"):
        handlers.handler("charge", encrypt=[""])(lambda _: None)
    handlers.handler("charge", encrypt=["card"], concurrency_key="c:{payload.n}")(lambda _: None)


def test_an_edit_keeps_the_ciphertext_or_encrypts_anew() -> None:
    before = seal(CARD, ("card", "customer.iban"), job_type="charge")
    shown = {name: one for name, one in before.items() if name != "$ciphertext"}

    def edit(after: Any, old: Any = before) -> Any:
        return resealed(old, after, None, job_type="charge")

    use_keys(PayloadKeys([]))  # no key is needed for what stays
    masked = shown | {"n": 2, "$ciphertext": "••••••"}
    assert edit(masked) == before | {"n": 2}
    with pytest.raises(InvalidInput, match="keeps others, and the payload is encrypted with key"):
        edit(shown | {"card": "5500"})
    use_keys(PayloadKeys([NEW]))
    changed = edit(shown | {"card": "5500"})
    assert "5500" not in str(changed)
    assert opened(changed, job_type="charge") == CARD | {"card": "5500"}
    dropped = edit(shown | {"$encrypted": ["card"]})
    assert opened(dropped, job_type="charge") == CARD | {"customer": {"name": "Ada"}}
    # What it leaves out of both is gone; what it gives anew is encrypted as before.
    anew = edit({"card": "5500", "n": 1})
    assert (anew["$encrypted"], "5500" in str(anew)) == (["card"], False)
    with pytest.raises(InvalidInput, match="leave out what the job has not"):
        edit(shown | {"$encrypted": ["n"]})
    with pytest.raises(InvalidInput, match="leave out what the job has not"):
        edit(shown, {"card": 1})
    for more in ({}, {"card": "5500"}):
        with pytest.raises(
            InvalidInput, match=r"'customer\.iban', and its 'customer' is no object"
        ):
            edit(shown | more | {"customer": [1]})
    # What the type has encrypted since then is so after the edit.
    since = resealed(before, shown | {"iban": "DE7"}, ("iban",), job_type="charge")
    assert ("DE7" in str(since), opened(since, job_type="charge")["iban"]) == (False, "DE7")
    whole = seal(CARD, True, job_type="charge")
    assert edit({"$encrypted": True}, whole) == whole
    with pytest.raises(InvalidInput, match="send it anew as a whole"):
        edit({"$encrypted": True, "n": 1}, whole)
    assert opened(edit({"n": 1}, whole), job_type="charge") == {"n": 1}


def test_a_merge_for_many_jobs_leaves_what_is_encrypted_alone() -> None:
    before = seal(CARD, ("card", "customer.iban"), job_type="charge")
    check_merge(before, {"n": 2}, None)
    for patch, words in (
        ({"card": "x"}, "payload.card is encrypted"),
        ({"customer": {"iban": None}}, "customer.iban is encrypted"),
        ({"$encrypted": []}, "the service alone writes"),
    ):
        with pytest.raises(InvalidInput, match=words):
            check_merge(before, patch, None)
    with pytest.raises(InvalidInput, match="as a whole"):
        check_merge({"n": 1}, {"n": 2}, True)


def test_a_digest_of_a_secret_differs_by_value_and_by_key() -> None:
    made = {str(digested({"card": card}, ("card",), key=n)) for card in ("1", "2") for n in (0, 1)}
    assert len(made) == 4
    assert digested(CARD, ("card",), key=0) == digested(dict(CARD), ("card",), key=0)


@pytest.mark.parametrize("given", [None, False, []])
def test_nothing_asks_for_nothing(given: Any) -> None:
    assert sealing_of(given) is None
