from typing import Any

import pytest
from pydantic import ValidationError

from service.reminders.schemas import ReminderChange, ReminderIn

GOOD: dict[str, Any] = {
    "message": "Pay",
    "send_at": "2030-01-31T09:00:00+01:00",
    "channel": "email",
    "recipient": "ada@example.org",
}


@pytest.mark.parametrize(
    ("channel", "recipient"),
    [
        ("email", "ada@example.org"),
        ("email", "a.d+a_!#$%&'*/=?^`{|}~-@mail.example-1.co.uk"),
        ("email", "root@localhost"),
        ("email", "x" * 64 + "@example.org"),
        ("whatsapp", "+14155238886"),
        ("whatsapp", "+491511234567890"),
        ("log", "whoever, wherever"),
        ("log", "é" * 320),
    ],
)
def test_a_recipient_that_the_channel_can_reach_is_taken(channel: str, recipient: str) -> None:
    body = ReminderIn.model_validate(GOOD | {"channel": channel, "recipient": recipient})
    assert body.recipient == recipient


@pytest.mark.parametrize(
    ("channel", "recipient"),
    [
        ("email", ""),
        ("email", "ada"),
        ("email", "@example.org"),
        ("email", "ada@"),
        ("email", "ada@gmail"),
        ("email", "ada@-x.org"),
        ("email", "ada@x..org"),
        ("email", ".ada@x.org"),
        ("email", "ada@example.org\n"),
        ("email", "ada@example.org\r\nBcc: eve@example.org"),
        ("email", "ada@example.org, eve@example.org"),
        ("email", "Ada <ada@example.org>"),
        ("email", "ada eve@example.org"),
        ("email", "x" * 65 + "@example.org"),
        ("email", "a@" + "x" * 60 + ("." + "y" * 60) * 4),
        ("email", "adä@example.org"),
        ("whatsapp", "4155238886"),
        ("whatsapp", "+0155238886"),
        ("whatsapp", "+1415523888612345"),
        ("whatsapp", "+1 415 523 8886"),
        ("whatsapp", "+14155238886\n"),
        ("whatsapp", "+١٤١٥٥٢٣٨٨٨٦"),
        ("whatsapp", "ada@example.org"),
        ("log", ""),
        ("log", "x" * 321),
        ("log", "a\nb"),
        ("pigeon", "ada"),
    ],
)
def test_a_recipient_that_the_channel_cannot_reach_is_refused(channel: str, recipient: str) -> None:
    with pytest.raises(ValidationError):
        ReminderIn.model_validate(GOOD | {"channel": channel, "recipient": recipient})


@pytest.mark.parametrize(
    "change",
    [
        {"message": ""},
        {"message": " \n"},
        {"message": "x" * 501},
        {"message": "a\x00b"},
        {"message": "a\ud800b"},
        {"message": None},
        {"message": 5},
        {"send_at": "2030-01-31T09:00:00"},
        {"send_at": "2030-01-31"},
        {"send_at": "tomorrow"},
        {"send_at": 1893456000},
        {"send_at": "1893456000"},
        {"send_at": "1969-01-01T00:00:00Z"},
        {"send_at": "0001-01-01T00:00:00+14:00"},
        {"send_at": "9999-12-31T23:59:59-14:00"},
        {"send_at": None},
        {"channel": "EMAIL"},
        {"channel": None},
        {"status": "sent"},
        {"user_id": "eve"},
        {"sent": True},
    ],
)
@pytest.mark.parametrize("partly", [False, True])
def test_an_invalid_value_is_refused_in_new_and_changed_reminders(
    change: dict[str, Any], partly: bool
) -> None:
    model, body = (ReminderChange, change) if partly else (ReminderIn, GOOD | change)
    with pytest.raises(ValidationError):
        model.model_validate(body)


def test_500_characters_fit_whatever_they_are() -> None:
    assert len(ReminderIn.model_validate(GOOD | {"message": "🏠" * 500}).message) == 500


def test_a_change_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing to change"):
        ReminderChange.model_validate({})


def test_a_change_names_only_what_was_given() -> None:
    change = ReminderChange.model_validate({"message": "New"})
    assert change.model_dump(exclude_unset=True) == {"message": "New"}


def test_the_schema_of_a_change_offers_no_null() -> None:
    properties = ReminderChange.model_json_schema()["properties"]
    assert "null" not in str(properties)
    assert set(properties) == {"message", "send_at", "channel", "recipient"}
