import io
from collections.abc import Callable
from uuid import uuid4

import pytest
from pydantic import SecretStr

from service.observability.logging import configure_logging
from service.reminders.channels import Delivery, LogChannel
from service.settings import Environment, Settings


@pytest.mark.parametrize("environment", [Environment.DEVELOPMENT, Environment.PRODUCTION])
async def test_message_and_recipient_are_logged_outside_production_only(
    make_settings: Callable[..., Settings], environment: Environment
) -> None:
    settings = make_settings(
        environment=environment, database_url=SecretStr("postgresql://db.example.org/x")
    )
    stream = io.StringIO()
    configure_logging(settings, stream=stream)
    try:
        delivery = Delivery(7, uuid4(), recipient="ada@example.org", message="Pay the bill")
        await LogChannel(settings).deliver(delivery)
    finally:
        configure_logging(make_settings())
    line = stream.getvalue()
    assert delivery.key in line
    shown = environment is Environment.DEVELOPMENT
    assert ("ada@example.org" in line, "Pay the bill" in line) == (shown, shown)
