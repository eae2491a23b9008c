"""The `email` channel: one message over SMTP, on a connection of its own."""

import asyncio
import re
import ssl
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, localtime
from typing import Final

import aiosmtplib

from service import addresses
from service.addresses import SmtpServer, is_email
from service.reminders.channels.delivery import (
    ChannelNotConfigured,
    Delivery,
    PermanentDeliveryError,
    TemporaryDeliveryError,
    quote_reply,
)
from service.settings import Settings

SUBJECT_CHARS: Final = 70
MESSAGE_ID_DOMAIN: Final = "finmind-jobs"

_ANSWERS: Final = (
    (aiosmtplib.SMTPRecipientRefused, "refused the recipient", True),
    (aiosmtplib.SMTPDataError, "refused the message", True),
    (aiosmtplib.SMTPSenderRefused, "refused the sender", False),
    (aiosmtplib.SMTPAuthenticationError, "refused the log-in", False),
    (aiosmtplib.SMTPResponseException, "would not talk", False),
)
"""What a server refused, and whether the refusal concerns this mail; the last entry fits all."""

# 7bit: every server takes it, whether or not it has 8BITMIME.
_POLICY: Final = SMTP_POLICY.clone(cte_type="7bit")


class EmailChannel:
    """Sends reminders as plain-text mail."""

    def __init__(self, settings: Settings) -> None:
        url = settings.smtp_url.get_secret_value() if settings.smtp_url else ""
        self._server = SmtpServer.from_url(url) if url else None
        self._sender = addresses.sender(settings.email_from) if settings.email_from else None
        self._timeout = settings.smtp_timeout_seconds
        self._tls: ssl.SSLContext | None = None

    async def deliver(self, delivery: Delivery) -> str:
        """Hand the message to the mail server; returns its Message-ID.

        Raises:
            PermanentDeliveryError: 5xx for the recipient or the message, or the channel is not configured.
            TemporaryDeliveryError: anything else. A 5xx earlier in the session (greeting, log-in, sender)
                is a problem of this service, not of the reminder: it can be fixed before the last retry.
        """
        if self._server is None or self._sender is None:
            raise ChannelNotConfigured("E-mail", ["SMTP_URL", "EMAIL_FROM"])
        if not is_email(delivery.recipient):
            raise PermanentDeliveryError("The recipient is not an e-mail address")
        message = compose(delivery, self._sender)
        client = self._client(self._server)
        try:
            async with asyncio.timeout(self._timeout):
                await client.connect()
                await client.send_message(
                    message, sender=self._sender.addr_spec, recipients=[delivery.recipient]
                )
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            raise self._explain(error) from None
        except BaseException:
            client.close()
            raise
        # The server has accepted the mail: it is sent even if closing the session fails.
        with suppress(aiosmtplib.SMTPException, OSError):
            async with asyncio.timeout(2):
                await client.quit()
        client.close()
        return str(message["Message-ID"])

    def _client(self, server: SmtpServer) -> aiosmtplib.SMTP:
        secure = server.scheme != "smtp"
        if secure and self._tls is None:
            self._tls = ssl.create_default_context()
        return aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username,
            password=server.password,
            use_tls=server.scheme == "smtp+ssl",
            # Never "if offered": an attacker who strips the offer must not get the password or the mail.
            start_tls=server.scheme == "smtp+starttls",
            tls_context=self._tls if secure else None,
            local_hostname=self._helo_name(),
            timeout=self._timeout,
        )

    def _helo_name(self) -> str:
        # Not socket.getfqdn(), the library's default: it may block on DNS.
        return self._sender.domain if self._sender else "localhost"

    def _explain(self, error: Exception) -> TemporaryDeliveryError | PermanentDeliveryError:
        if isinstance(error, aiosmtplib.SMTPRecipientsRefused) and error.recipients:
            error = error.recipients[0]
        if isinstance(error, aiosmtplib.SMTPResponseException):
            return self._explain_answer(error)
        if _certificate_trouble(error):
            return TemporaryDeliveryError("The mail server's certificate could not be verified")
        match error:
            case TimeoutError():
                return TemporaryDeliveryError(
                    f"The mail server did not answer within {self._timeout:g} s"
                )
            case aiosmtplib.SMTPServerDisconnected():
                return TemporaryDeliveryError("The mail server closed the connection")
            case OSError():
                reason = type(error.__cause__ or error).__name__
                return TemporaryDeliveryError(f"The mail server could not be reached ({reason})")
            case _:
                return TemporaryDeliveryError(
                    f"The mail could not be sent: {self._quote(str(error))}"
                )

    def _explain_answer(
        self, error: aiosmtplib.SMTPResponseException
    ) -> TemporaryDeliveryError | PermanentDeliveryError:
        what, about_the_mail = next(
            (words, about) for kind, words, about in _ANSWERS if isinstance(error, kind)
        )
        words = f"The mail server {what}: {error.code} {self._quote(error.message)}".rstrip()
        return (
            PermanentDeliveryError(words)
            if about_the_mail and error.code >= 500
            else TemporaryDeliveryError(words)
        )

    def _quote(self, text: str) -> str:
        password = self._server.password if self._server else None
        return quote_reply(text, secrets=(password,))


def compose(delivery: Delivery, sender: Address) -> EmailMessage:
    """The mail: no value in it can add a header, and its Message-ID is the delivery's own.

    Raises:
        PermanentDeliveryError: serialised, it would have other headers than these; see `_subject_words`.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = sender
    message["To"] = Address(addr_spec=delivery.recipient)
    message["Subject"] = "Reminder: " + _subject_words(delivery.message)
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = f"<{delivery.key}@{MESSAGE_ID_DOMAIN}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    message.set_content(re.sub(r"\r\n?", "\n", delivery.message))
    if BytesHeaderParser().parsebytes(message.as_bytes()).keys() != message.keys():
        raise PermanentDeliveryError("The message cannot be written as a mail")
    return message


def _subject_words(text: str) -> str:
    # `email` reads encoded words (RFC 2047) in what it is given, and line breaks come out of those:
    # `=?utf-8?q?=0d=0aBcc:…?=` would add a header.
    text = text.replace("=?", "= ?")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= SUBJECT_CHARS else line[: SUBJECT_CHARS - 1].rstrip() + "…"


def _certificate_trouble(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
