"""What a channel is given, what it returns, and the errors that it raises.

    DeliveryError
    ├── TemporaryDeliveryError             not now: a down server, a full mailbox, a rate limit; try again
    └── PermanentDeliveryError              never: the recipient or the message is not accepted
        └── ChannelNotConfigured    the operator has not set this channel up

`ChannelNotConfigured` is permanent on purpose: a retry cannot supply a missing setting, the operator
sees a FAILED job at once instead of ten minutes later, and a retry by hand delivers the reminder once
the setting is there.

Users and operators read the messages: they must not contain credentials or addresses of servers.
"""

from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

MAX_REPLY_CHARS: Final = 300
"""How many characters of a remote server's answer go into an error."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one recipient.

    `delivery_id` stays the same through every retry, and changes when the user changes the reminder: a
    receiver that gets it twice recognises a repeat.
    """

    reminder_id: int
    delivery_id: UUID
    recipient: str
    message: str

    @property
    def key(self) -> str:
        """The stable name of this delivery, for Message-ID and idempotency headers."""
        return f"reminder-{self.reminder_id}-{self.delivery_id}"


class Channel(Protocol):
    """Sends messages one way; safe to use from many tasks at once."""

    async def deliver(self, delivery: Delivery) -> str | None:
        """Send; return once the other side has accepted, with its own id of the message or None.

        Raises:
            TemporaryDeliveryError: trying again later may help.
            PermanentDeliveryError: trying again cannot help.
        """
        ...


class DeliveryError(Exception):
    """The channel did not accept the message."""


class TemporaryDeliveryError(DeliveryError):
    """Not accepted now. `retry_after_seconds` is what the other side asked for, within our limits."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class PermanentDeliveryError(DeliveryError):
    """Not accepted, and a retry would not be either."""


class ChannelNotConfigured(PermanentDeliveryError):
    """The channel lacks settings; the message names them."""

    def __init__(self, channel: str, missing: list[str]) -> None:
        names = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        super().__init__(f"{channel} is not configured: set {names}")


def quote_reply(text: str, *, secrets: tuple[str | None, ...] = ()) -> str:
    """A remote server's answer on one line, shortened, with every secret redacted."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_REPLY_CHARS else line[: MAX_REPLY_CHARS - 1] + "…"
