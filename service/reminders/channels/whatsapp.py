"""The `whatsapp` channel: Twilio's Messages API over HTTPS."""

import asyncio
import json
import ssl
from contextlib import suppress
from typing import Final
from urllib.parse import quote

import httpx

from service.reminders.channels.delivery import (
    ChannelNotConfigured,
    Delivery,
    PermanentDeliveryError,
    TemporaryDeliveryError,
    quote_reply,
)
from service.retry_after import parse_retry_after
from service.settings import Settings

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""The longest Retry-After that is followed: after a day a reminder would be pointless."""
MAX_REPLY_BYTES: Final = 65_536
BODY_SECONDS: Final = 2.0
"""How long the body of an answer may take once its status is known."""


class WhatsAppChannel:
    """Sends reminders as WhatsApp messages through Twilio."""

    def __init__(self, settings: Settings) -> None:
        self._base_url = settings.twilio_base_url
        self._sid = settings.twilio_account_sid or None
        token = settings.twilio_auth_token
        self._token = (token.get_secret_value() if token else None) or None
        self._sender = settings.twilio_whatsapp_from or None
        self._timeout = settings.twilio_timeout_seconds
        self._tls: ssl.SSLContext | None = None

    async def deliver(self, delivery: Delivery) -> str | None:
        """Hand the message to Twilio; returns Twilio's id of it.

        Raises:
            PermanentDeliveryError: a 4xx other than 429, or the channel is not configured.
            TemporaryDeliveryError: 429, 5xx, no answer; with Retry-After where one was given.
        """
        if not (self._sid and self._token and self._sender):
            raise ChannelNotConfigured(
                "WhatsApp", ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_WHATSAPP_FROM"]
            )
        try:
            async with asyncio.timeout(self._timeout), self._client(self._sid, self._token) as http:
                response, body = await self._post(http, self._sid, delivery)
        except (TimeoutError, httpx.TimeoutException):
            raise TemporaryDeliveryError(
                f"Twilio did not answer within {self._timeout:g} s"
            ) from None
        except (httpx.HTTPError, OSError) as error:
            raise TemporaryDeliveryError(
                f"Twilio could not be reached ({type(error).__name__})"
            ) from None
        return self._read(response, body)

    def _client(self, sid: str, token: str) -> httpx.AsyncClient:
        # A client per message: nothing to close at shutdown, no pool to go stale between
        # reminders that are minutes apart. The TLS context, which is slow to create, is kept.
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        return httpx.AsyncClient(
            auth=(sid, token),
            verify=self._tls,
            timeout=self._timeout,
            # A redirect would carry the message, and perhaps the credential, to another host.
            follow_redirects=False,
        )

    async def _post(
        self, http: httpx.AsyncClient, sid: str, delivery: Delivery
    ) -> tuple[httpx.Response, bytes]:
        url = f"{self._base_url}/2010-04-01/Accounts/{quote(sid, safe='')}/Messages.json"
        form = {
            "From": f"whatsapp:{self._sender}",
            "To": f"whatsapp:{delivery.recipient}",
            "Body": delivery.message,
        }
        headers = {"Idempotency-Key": delivery.key, "I-Twilio-Idempotency-Token": delivery.key}
        async with http.stream("POST", url, data=form, headers=headers) as response:
            # The status line decides. A body that stalls or breaks off must not turn
            # an accepted message into one to send again.
            body = b""
            with suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(BODY_SECONDS):
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_REPLY_BYTES:
                            break
            return response, body

    def _read(self, response: httpx.Response, body: bytes) -> str | None:
        status = response.status_code
        if response.is_success:
            return _text_field(body, "sid")
        reason = _text_field(body, "message") or response.reason_phrase
        code = _text_field(body, "code")
        reason = quote_reply(reason, secrets=(self._token, self._sid))
        words = f"Twilio answered {status}{f' (error {code})' if code else ''}: {reason}"
        if 400 <= status < 500 and status != httpx.codes.TOO_MANY_REQUESTS:
            raise PermanentDeliveryError(words)
        raise TemporaryDeliveryError(
            words,
            retry_after_seconds=parse_retry_after(
                response.headers.get("Retry-After"), max_seconds=MAX_RETRY_AFTER_SECONDS
            ),
        )


def _text_field(body: bytes, name: str) -> str | None:
    try:
        value = json.loads(body)[name]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return str(value) if isinstance(value, str | int) else None
