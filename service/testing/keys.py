"""Keys for encrypted payloads in tests, and what tests see of those."""

import base64
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.jobs.core.encryption import opened
from service.jobs.core.payload_keys import (
    KEY_BYTES,
    AlteredCiphertext,
    PayloadKeyMissing,
    PayloadKeys,
    payload_keys,
    use_keys,
)
from service.jobs.handlers.loader import use_keys_of
from service.settings import Settings


@contextmanager
def keys_of(settings: Settings) -> Iterator[None]:
    """Have this process encrypt with the keys of the settings, else with its own, else with one made for the test.

    Raises:
        ConfigurationError: one is not 32 bytes in base64.
    """
    before = payload_keys()
    use_keys_of(settings)
    if not payload_keys():
        use_keys(PayloadKeys([base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()]))
    try:
        yield
    finally:
        use_keys(before)


def plain(payload: Any, *, job_type: str) -> Any:
    """The payload as it was enqueued; as it is stored where another key is needed."""
    try:
        return opened(payload, job_type=job_type)
    except (PayloadKeyMissing, AlteredCiphertext):
        return payload
