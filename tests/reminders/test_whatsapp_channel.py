import base64
from collections.abc import Callable
from uuid import UUID

import pytest
from pydantic import SecretStr

from service.reminders.channels import (
    ChannelNotConfigured,
    Delivery,
    PermanentDeliveryError,
    TemporaryDeliveryError,
    WhatsAppChannel,
)
from service.settings import Settings

from .servers import Answer, running_twilio

MakeSettings = Callable[..., Settings]
DELIVERY = Delivery(
    reminder_id=9,
    delivery_id=UUID("0cc175b9-c0f1-46b6-a31c-399e26977266"),
    recipient="+4915112345678",
    message="Rent & more = due 🏠",
)
KEY = "reminder-9-0cc175b9-c0f1-46b6-a31c-399e26977266"


def channel(make_settings: MakeSettings, url: str, **overrides: object) -> WhatsAppChannel:
    values = {
        "twilio_base_url": url,
        "twilio_account_sid": "AC123",
        "twilio_auth_token": SecretStr("hunter2"),
        "twilio_whatsapp_from": "+14155238886",
    }
    return WhatsAppChannel(make_settings(**(values | overrides)))


async def test_a_message_is_posted_to_twilio_with_a_stable_key(
    make_settings: MakeSettings,
) -> None:
    async with running_twilio(Answer(201, {"sid": "SM1", "status": "queued"})) as twilio:
        whatsapp = channel(make_settings, twilio.url + "/")
        assert await whatsapp.deliver(DELIVERY) == "SM1"
        assert await whatsapp.deliver(DELIVERY) == "SM1"
    first, second = twilio.calls
    assert (first.method, first.path) == ("POST", "/2010-04-01/Accounts/AC123/Messages.json")
    assert first.form == {
        "From": "whatsapp:+14155238886",
        "To": "whatsapp:+4915112345678",
        "Body": DELIVERY.message,
    }
    assert first.headers["authorization"] == "Basic " + base64.b64encode(b"AC123:hunter2").decode()
    for header in ("idempotency-key", "i-twilio-idempotency-token"):
        assert first.headers[header] == second.headers[header] == KEY


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a_4xx_is_final_and_quotes_twilio_without_the_token(
    make_settings: MakeSettings, status: int
) -> None:
    answer = Answer(status, {"code": 21211, "message": "Bad 'To'\r\nhunter2 is no number"})
    async with running_twilio(answer) as twilio:
        with pytest.raises(PermanentDeliveryError) as refusal:
            await channel(make_settings, twilio.url).deliver(DELIVERY)
    assert str(refusal.value) == (
        f"Twilio answered {status} (error 21211): Bad 'To' *** is no number"
    )


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"retry-after": "17"}, 17.0),
        (503, {"retry-after": "17"}, 17.0),
        (429, {}, None),
        (500, {}, None),
    ],
)
async def test_429_and_5xx_are_tried_again_when_twilio_says(
    make_settings: MakeSettings, status: int, headers: dict[str, str], seconds: float | None
) -> None:
    async with running_twilio(Answer(status, {"message": "Busy"}, headers)) as twilio:
        with pytest.raises(
            TemporaryDeliveryError, match=f"Twilio answered {status}: Busy"
        ) as later:
            await channel(make_settings, twilio.url).deliver(DELIVERY)
    assert later.value.retry_after_seconds == seconds


async def test_a_redirect_is_not_followed(make_settings: MakeSettings) -> None:
    async with (
        running_twilio(Answer(201, {"sid": "SM1"})) as elsewhere,
        running_twilio(Answer(307, {}, {"location": elsewhere.url})) as twilio,
    ):
        with pytest.raises(TemporaryDeliveryError, match="307"):
            await channel(make_settings, twilio.url).deliver(DELIVERY)
        assert elsewhere.calls == []


async def test_an_answer_that_is_no_json_still_counts_as_accepted(
    make_settings: MakeSettings,
) -> None:
    async with running_twilio(Answer(201, {})) as twilio:
        assert await channel(make_settings, twilio.url).deliver(DELIVERY) is None


async def test_no_twilio_at_all_is_tried_again(make_settings: MakeSettings) -> None:
    async with running_twilio(Answer(201)) as twilio:
        url = twilio.url
    with pytest.raises(TemporaryDeliveryError, match=r"could not be reached \(ConnectError\)"):
        await channel(make_settings, url).deliver(DELIVERY)


async def test_a_channel_without_settings_names_them(make_settings: MakeSettings) -> None:
    with pytest.raises(ChannelNotConfigured) as refusal:
        await WhatsAppChannel(make_settings()).deliver(DELIVERY)
    assert str(refusal.value) == (
        "WhatsApp is not configured: "
        "set TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN and TWILIO_WHATSAPP_FROM"
    )
