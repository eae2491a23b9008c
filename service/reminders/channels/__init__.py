"""The channels that send reminders: one file each, with the interface of `delivery.py`."""

from service.reminders.channels.delivery import (
    Channel,
    ChannelNotConfigured,
    Delivery,
    PermanentDeliveryError,
    TemporaryDeliveryError,
)
from service.reminders.channels.email import EmailChannel
from service.reminders.channels.log import LogChannel
from service.reminders.channels.whatsapp import WhatsAppChannel
from service.reminders.recipients import ChannelName
from service.settings import Settings

__all__ = [
    "Channel",
    "ChannelNotConfigured",
    "Delivery",
    "EmailChannel",
    "LogChannel",
    "PermanentDeliveryError",
    "TemporaryDeliveryError",
    "WhatsAppChannel",
    "build_channels",
]


def build_channels(settings: Settings) -> dict[ChannelName, Channel]:
    """Every channel with its settings; one without settings raises when it is used.

    Raises:
        ConfigurationError: a setting is invalid (`SMTP_URL`, `EMAIL_FROM`, …).
    """
    return {
        ChannelName.EMAIL: EmailChannel(settings),
        ChannelName.WHATSAPP: WhatsAppChannel(settings),
        ChannelName.LOG: LogChannel(settings),
    }
