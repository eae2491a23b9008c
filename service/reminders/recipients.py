"""Who a reminder may go to, by channel."""

import re
from enum import StrEnum
from typing import Final

MAX_RECIPIENT_CHARS: Final = 320


class ChannelName(StrEnum):
    """How a reminder is sent."""

    EMAIL = "email"
    WHATSAPP = "whatsapp"
    LOG = "log"


# RFC 5321 §4.5.3.1: 64 octets before the @, 254 in a path that fits a command line. Dot-atoms in
# ASCII only: quoted local parts and SMTPUTF8 are refused by too many servers to be promised, and
# a domain in other letters can be given in its xn-- form.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL: Final = re.compile(
    rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:(?:{_LABEL}\.)+{_LABEL}|localhost)"
)
MAX_EMAIL_CHARS: Final = 254

# E.164: a plus, a country code that does not start with 0, fifteen digits at most.
_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")


def is_email(text: str) -> bool:
    """Whether the text is one plain e-mail address and nothing else."""
    return len(text) <= MAX_EMAIL_CHARS and _EMAIL.fullmatch(text) is not None


def is_e164(text: str) -> bool:
    """Whether the text is one international telephone number."""
    return _E164.fullmatch(text) is not None


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
