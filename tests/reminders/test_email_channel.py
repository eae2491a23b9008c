import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from pydantic import SecretStr

from service.reminders.channels import (
    ChannelNotConfigured,
    Delivery,
    EmailChannel,
    PermanentDeliveryError,
    TemporaryDeliveryError,
)
from service.settings import Settings

from .servers import Mailbox, make_certificate, running_mailbox

MakeSettings = Callable[..., Settings]
DELIVERY = Delivery(
    reminder_id=7,
    delivery_id=UUID("8f14e45f-ceea-467f-a9d1-6f3b0c3d5a11"),
    recipient="ada@example.org",
    message="Pay the electricity bill – 12 €\n.\nNow",
)
MESSAGE_ID = "<reminder-7-8f14e45f-ceea-467f-a9d1-6f3b0c3d5a11@finmind-jobs>"


def channel(make_settings: MakeSettings, url: str, **overrides: object) -> EmailChannel:
    values = {"smtp_url": SecretStr(url), "email_from": "FinMind <jobs@finmind.example>"}
    return EmailChannel(make_settings(**(values | overrides)))


async def test_a_mail_arrives_whole_with_a_message_id_that_stays_the_same(
    make_settings: MakeSettings,
) -> None:
    async with running_mailbox() as mailbox:
        email = channel(make_settings, mailbox.url())
        assert await email.deliver(DELIVERY) == MESSAGE_ID
        assert await email.deliver(DELIVERY) == MESSAGE_ID
    first, second = mailbox.mails
    assert first["Message-ID"] == second["Message-ID"] == MESSAGE_ID
    assert first["To"] == "ada@example.org"
    assert first["From"] == "FinMind <jobs@finmind.example>"
    assert first["Subject"] == "Reminder: Pay the electricity bill – 12 € . Now"
    assert first.get_content().replace("\r\n", "\n") == DELIVERY.message + "\n"
    assert mailbox.senders == ["jobs@finmind.example"] * 2


async def test_a_message_cannot_add_headers_or_recipients(make_settings: MakeSettings) -> None:
    nasty = Delivery(
        1,
        DELIVERY.delivery_id,
        "ada@example.org",
        "Hi\r\nBcc: eve@example.org\r\n\r\nbody\x0b\x85x",
    )
    async with running_mailbox() as mailbox:
        await channel(make_settings, mailbox.url()).deliver(nasty)
    (mail,) = mailbox.mails
    assert mail["Bcc"] is None
    assert mailbox.attempts == 1
    assert mail["Subject"].startswith("Reminder: Hi Bcc: eve@example.org")


async def test_an_encoded_word_adds_no_header_either(make_settings: MakeSettings) -> None:
    words = "=?utf-8?q?a=0d=0aBcc:_eve=40example.org?="
    async with running_mailbox() as mailbox:
        await channel(make_settings, mailbox.url()).deliver(
            Delivery(1, DELIVERY.delivery_id, "ada@example.org", words)
        )
    (mail,) = mailbox.mails
    assert mail["Bcc"] is None
    assert mail["Subject"] == "Reminder: = ?utf-8?q?a=0d=0aBcc:_eve=40example.org?="
    assert mail.get_content().strip() == words


@pytest.mark.parametrize(
    "recipient",
    [
        "ada@example.org\r\nRCPT TO:<eve@example.org>",
        "a b@c.de",
        "=?utf-8?q?a=0d=0aBcc=3a_eve?=@example.org",
    ],
)
async def test_a_recipient_that_is_no_address_never_reaches_the_server(
    make_settings: MakeSettings, recipient: str
) -> None:
    async with running_mailbox() as mailbox:
        email = channel(make_settings, mailbox.url())
        with pytest.raises(PermanentDeliveryError, match="not an e-mail address"):
            await email.deliver(Delivery(1, DELIVERY.delivery_id, recipient, "hello"))
    assert mailbox.attempts == 0


async def test_credentials_are_percent_decoded_and_used(make_settings: MakeSettings) -> None:
    async with running_mailbox() as mailbox:
        url = mailbox.url(login="ada%40corp:p%3Aa%2Fss%25")
        await channel(make_settings, url).deliver(DELIVERY)
    assert mailbox.logins == [(b"ada@corp", b"p:a/ss%")]
    assert len(mailbox.mails) == 1


async def test_a_refused_log_in_is_retried_and_shows_no_password(
    make_settings: MakeSettings,
) -> None:
    async with running_mailbox() as mailbox:
        mailbox.login_ok = False
        email = channel(make_settings, mailbox.url(login="ada:hunter2"))
        with pytest.raises(TemporaryDeliveryError, match="refused the log-in: 535") as refusal:
            await email.deliver(DELIVERY)
    assert "hunter2" not in str(refusal.value)
    assert mailbox.mails == []


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtp+ssl"])
async def test_mail_goes_out_encrypted(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    options: dict[str, object] = (
        {"tls": certificate.server}
        if scheme == "smtp+ssl"
        else {"tls_context": certificate.server, "require_starttls": True}
    )
    async with running_mailbox(**options) as mailbox:
        await channel(make_settings, mailbox.url(scheme)).deliver(DELIVERY)
    assert [mail["Message-ID"] for mail in mailbox.mails] == [MESSAGE_ID]


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtp+ssl"])
async def test_a_certificate_nobody_vouches_for_is_not_trusted(
    make_settings: MakeSettings, tmp_path: Path, scheme: str
) -> None:
    server: ssl.SSLContext = make_certificate(tmp_path).server
    options = {"tls": server} if scheme == "smtp+ssl" else {"tls_context": server}
    async with running_mailbox(**options) as mailbox:
        with pytest.raises(TemporaryDeliveryError, match="certificate could not be verified"):
            await channel(make_settings, mailbox.url(scheme, "ada:hunter2")).deliver(DELIVERY)
    assert mailbox.logins == []
    assert mailbox.mails == []


async def test_starttls_is_never_given_up_where_the_server_does_not_offer_it(
    make_settings: MakeSettings,
) -> None:
    async with running_mailbox() as mailbox:
        with pytest.raises(TemporaryDeliveryError):
            await channel(make_settings, mailbox.url("smtp+starttls", "a:b")).deliver(DELIVERY)
    assert mailbox.logins == []
    assert mailbox.mails == []


@pytest.mark.parametrize("step", ["answer_rcpt", "answer_data"])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("550 5.1.1 No such user", PermanentDeliveryError),
        ("554 5.7.1 Spam", PermanentDeliveryError),
        ("451 4.7.1 Greylisted, try later", TemporaryDeliveryError),
        ("452 4.2.2 Mailbox full", TemporaryDeliveryError),
    ],
)
async def test_5xx_for_the_mail_is_final_and_4xx_is_not(
    make_settings: MakeSettings, step: str, answer: str, kind: type[Exception]
) -> None:
    async with running_mailbox() as mailbox:
        setattr(mailbox, step, lambda _attempt: answer)
        with pytest.raises(kind) as refusal:
            await channel(make_settings, mailbox.url()).deliver(DELIVERY)
    assert type(refusal.value) is kind
    assert answer[:3] in str(refusal.value)
    assert answer.split(" ", 2)[2] in str(refusal.value)
    assert mailbox.mails == []


async def test_a_server_that_is_down_is_tried_again(make_settings: MakeSettings) -> None:
    async with running_mailbox() as mailbox:
        url = mailbox.url()
    with pytest.raises(
        TemporaryDeliveryError, match=r"could not be reached \(ConnectionRefusedError\)"
    ):
        await channel(make_settings, url).deliver(DELIVERY)


async def test_a_server_that_says_nothing_is_given_up_in_time(make_settings: MakeSettings) -> None:
    client_left = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        client_left.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        with pytest.raises(TemporaryDeliveryError, match=r"did not answer within 0\.2 s"):
            await channel(make_settings, url, smtp_timeout_seconds=0.2).deliver(DELIVERY)
        await asyncio.wait_for(client_left.wait(), 5)
    finally:
        server.close()
        await server.wait_closed()


async def test_mail_that_was_accepted_counts_although_the_good_bye_fails(
    make_settings: MakeSettings,
) -> None:
    class HangsUpAfterData(Mailbox):
        async def handle_QUIT(self, server: object, *_: object) -> str:  # noqa: N802
            raise ConnectionResetError

    mailbox = HangsUpAfterData()
    await mailbox.start()
    try:
        assert await channel(make_settings, mailbox.url()).deliver(DELIVERY) == MESSAGE_ID
    finally:
        await mailbox.stop()
    assert len(mailbox.mails) == 1


async def test_a_channel_without_settings_names_them(make_settings: MakeSettings) -> None:
    with pytest.raises(ChannelNotConfigured) as refusal:
        await EmailChannel(make_settings()).deliver(DELIVERY)
    assert str(refusal.value) == "E-mail is not configured: set SMTP_URL and EMAIL_FROM"
