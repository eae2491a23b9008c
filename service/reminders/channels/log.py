"""The `log` channel: a reminder becomes a log line. For development."""

from service.observability.logging import get_logger
from service.reminders.channels.delivery import Delivery
from service.settings import Settings

_log = get_logger(__name__)


class LogChannel:
    """Delivers to the log; in production without message and recipient, which are private."""

    def __init__(self, settings: Settings) -> None:
        self._show_all = not settings.is_production

    async def deliver(self, delivery: Delivery) -> None:
        """Write the reminder to the log."""
        private = {"recipient": delivery.recipient, "message": delivery.message}
        _log.info(
            "reminder_delivered",
            reminder_id=delivery.reminder_id,
            delivery=delivery.key,
            **(private if self._show_all else {}),
        )
