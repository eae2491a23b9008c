"""What the service calls by itself, and what attackers can make it call: nothing of their choice.

The addresses of the JWKS, the mail server and Twilio are the operator's settings. What users and
tokens say is searched here for a way to have any other address called.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import jwt
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from service.auth.tokens import TokenVerifier
from service.errors import Unauthenticated, Unavailable
from service.reminders.channels import (
    Delivery,
    EmailChannel,
    PermanentDeliveryError,
    TemporaryDeliveryError,
    WhatsAppChannel,
)
from service.settings import Settings
from tests.api.conftest import Auth
from tests.auth.conftest import JwksServer, jwks_server
from tests.reminders.servers import Answer, running_mailbox, running_twilio
from tests.security.corpora import LINES, TEXTS, addresses

pytestmark = [pytest.mark.security, pytest.mark.timeout(180)]

__all__ = ["jwks_server"]

ID = UUID("8f14e45f-ceea-467f-a9d1-6f3b0c3d5a11")


@dataclass
class Trap:
    """A listener that nobody should call, and the names that were looked up."""

    port: int = 0
    calls: int = 0
    names: list[str] = field(default_factory=list)

    async def take(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        writer.close()


@pytest.fixture
async def trap(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trap]:
    """Every name leads to the trap, as a rebinding resolver would have it: first out, then home."""
    trap = Trap()
    server = await asyncio.start_server(trap.take, "127.0.0.1", 0)
    trap.port = server.sockets[0].getsockname()[1]
    look_up = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        trap.names.append(str(host))
        known = host if host in {"127.0.0.1", "::1", None} else "127.0.0.1"
        return look_up(known, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    yield trap
    server.close()
    await server.wait_closed()


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(set(addresses(80))) >= 60


async def test_no_address_in_a_request_is_ever_called(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, trap: Trap
) -> None:
    admin, user = auth("admin"), auth("user", "eve")
    for address in addresses(trap.port):
        await client.post(
            "/jobs",
            json={"job_type": "demo.ok", "payload": {"url": address, "callback": address}},
            headers=admin,
        )
        await client.post("/jobs", json={"job_type": address[:100]}, headers=admin)
        for channel in ("email", "whatsapp", "log"):
            body = {
                "message": address, "send_at": "2020-01-01T00:00:00Z", "channel": channel,
                "recipient": address.strip(),
            }  # fmt: skip
            answer = await client.post("/reminders", json=body, headers=user)
            assert answer.status_code == (201 if channel == "log" else 422)
        for name in (
            "Host",
            "Origin",
            "Referer",
            "X-Forwarded-Host",
            "Forwarded",
            "X-Original-URL",
        ):
            sent = "".join(c for c in address if " " <= c <= "~").strip()
            answer = await client.get("/", headers={name: sent})
            assert answer.headers["location"] == "/docs"
    for path in ("/reminders/run", "/admin/jobs/process?limit=1000"):
        assert (await client.post(path, headers=admin)).status_code == 200
    assert trap.calls == 0
    assert set(trap.names) <= {urlsplit(app.state.service.dsn).hostname}


async def test_a_mail_server_is_the_only_one_that_a_recipient_leads_to(
    make_settings: Callable[..., Settings], trap: Trap
) -> None:
    async with running_mailbox() as mailbox:
        channel = EmailChannel(
            make_settings(smtp_url=SecretStr(mailbox.url()), email_from="jobs@finmind.example")
        )
        for recipient in (
            "eve@rebinding.test", "eve@127.0.0.1", "eve@localhost", "eve@[127.0.0.1]", "eve@2130706433",
        ):  # fmt: skip
            with contextlib.suppress(PermanentDeliveryError):
                await channel.deliver(Delivery(1, ID, recipient, "hello"))
    assert trap.calls == 0
    assert set(trap.names) <= {"127.0.0.1"}


async def test_what_tokens_say_leads_to_the_configured_address_alone(
    make_settings: Callable[..., Settings], jwks_server: JwksServer, trap: Trap
) -> None:
    verifier = TokenVerifier(make_settings(jwt_jwks_url=jwks_server.url, jwks_cooldown_seconds=0))
    for address in addresses(trap.port):
        headers = {"kid": address, "jku": address, "x5u": address, "jwk": {"kty": "RSA"}}
        token = jwt.encode(
            {"iss": address, "sub": address.strip(), "role": "admin"}, "x" * 32, headers=headers
        )
        with pytest.raises((Unauthenticated, Unavailable)):
            await verifier.verify(token)
    await verifier.close()
    assert trap.calls == 0
    assert set(trap.names) <= {"127.0.0.1"}
    assert set(jwks_server.requests) == {"/jwks.json"}


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_no_redirect_of_a_provider_is_followed(
    make_settings: Callable[..., Settings], jwks_server: JwksServer, trap: Trap, status: int
) -> None:
    for address in addresses(trap.port):
        place = "".join(c for c in address if " " <= c <= "~").strip()
        jwks_server.status, jwks_server.location = status, place
        verifier = TokenVerifier(make_settings(jwt_jwks_url=jwks_server.url))
        with pytest.raises(Unavailable):
            await verifier.verify(jwt.encode({"sub": "eve"}, "x" * 32, headers={"kid": "k"}))
        await verifier.close()
    async with running_twilio(
        Answer(status, {}, {"location": f"http://127.0.0.1:{trap.port}/"})
    ) as twilio:
        with pytest.raises(TemporaryDeliveryError):
            await whatsapp(make_settings, twilio.url).deliver(Delivery(1, ID, "+14155238886", "hi"))
    assert trap.calls == 0


def whatsapp(make_settings: Callable[..., Settings], url: str) -> WhatsAppChannel:
    return WhatsAppChannel(
        make_settings(
            twilio_base_url=url,
            twilio_account_sid="AC1",
            twilio_auth_token=SecretStr("hunter2"),
            twilio_whatsapp_from="+14155238886",
        )
    )


async def test_no_message_adds_a_header_a_recipient_or_a_second_mail(
    make_settings: Callable[..., Settings],
) -> None:
    expected = {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Content-Type",
        "Content-Transfer-Encoding", "MIME-Version",
    }  # fmt: skip
    async with running_mailbox() as mailbox:
        channel = EmailChannel(
            make_settings(
                smtp_url=SecretStr(mailbox.url()), email_from="FinMind <jobs@finmind.example>"
            )
        )
        sent = [text[:500] for text in (*LINES, *TEXTS) if "\x00" not in text]
        for text in sent:
            await channel.deliver(Delivery(7, ID, "ada@example.org", text))
    assert len(mailbox.mails) == mailbox.attempts == len(sent)
    for mail in mailbox.mails:
        assert {name.title() for name in mail} <= {name.title() for name in expected}
        assert len(mail.keys()) == len(set(mail.keys()))
        assert [str(mail["To"]), str(mail["From"])] == [
            "ada@example.org",
            "FinMind <jobs@finmind.example>",
        ]
        assert mail.get_content_type() == "text/plain"


async def test_no_recipient_is_more_than_one_address(
    make_settings: Callable[..., Settings], client: httpx.AsyncClient, auth: Auth
) -> None:
    base = {"message": "m", "send_at": "2100-01-01T00:00:00Z"}
    async with running_mailbox() as mailbox:
        channel = EmailChannel(
            make_settings(smtp_url=SecretStr(mailbox.url()), email_from="jobs@finmind.example")
        )
        for text in LINES:
            for recipient in (text, f"ada@example.org{text}", f"ada{text}@example.org"):
                for kind in ("email", "whatsapp"):
                    answer = await client.post(
                        "/reminders",
                        json=base | {"channel": kind, "recipient": recipient},
                        headers=auth("user"),
                    )
                    assert answer.status_code == 422, recipient
                # As it would be, had somebody written it into the table.
                with pytest.raises(PermanentDeliveryError):
                    await channel.deliver(Delivery(1, ID, recipient, "hello"))
    assert mailbox.attempts == 0


async def test_no_message_changes_the_request_to_twilio(
    make_settings: Callable[..., Settings],
) -> None:
    async with running_twilio(Answer(201, {"sid": "SM1"})) as twilio:
        channel = whatsapp(make_settings, twilio.url)
        sent = [*LINES, "a&To=whatsapp:+1900&From=x", "a=b&Body=c", *TEXTS[:40]]
        for text in sent:
            await channel.deliver(Delivery(7, ID, "+4915112345678", text))
    assert len(twilio.calls) == len(sent)
    for call, text in zip(twilio.calls, sent, strict=True):
        assert (call.method, call.path) == ("POST", "/2010-04-01/Accounts/AC1/Messages.json")
        assert call.form == {
            "From": "whatsapp:+14155238886", "To": "whatsapp:+4915112345678", "Body": text,
        }  # fmt: skip
        assert not {"bcc", "eve"} & set(call.headers)
