"""Who a reminder may go to, by channel."""

from enum import StrEnum
from typing import Final

from service.addresses import is_e164, is_email

MAX_RECIPIENT_CHARS: Final = 320


class ChannelName(StrEnum):
    """How a reminder is sent."""

    EMAIL = "email"
    WHATSAPP = "whatsapp"
    LOG = "log"


def check_recipient(channel: ChannelName, recipient: str) -> str:
    """The recipient as it is, if this channel can reach it.

    Raises:
        ValueError: it cannot; the message says what was expected.
    """
    match channel:
        case ChannelName.EMAIL if not is_email(recipient):
            raise ValueError("expected one e-mail address, such as ada@example.org")
        case ChannelName.WHATSAPP if not is_e164(recipient):
            raise ValueError("expected a telephone number in E.164 form, such as +14155238886")
        case ChannelName.LOG if not (
            0 < len(recipient) <= MAX_RECIPIENT_CHARS and recipient.isprintable()
        ):
            raise ValueError(f"expected 1 to {MAX_RECIPIENT_CHARS} printable characters")
    return recipient
