"""Signatures of Standard Webhooks (standardwebhooks.com, version 1.0.0): who gets a request knows who sent it.

`webhook-id` names the message and stays the same through every attempt; `webhook-timestamp` is when this attempt
was made; `webhook-signature` is `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64, one for each active
secret, with spaces between. While a secret is rotated both are active, and the receiver may know either.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Final

SIGNATURE_HEADERS: Final = frozenset({"webhook-id", "webhook-timestamp", "webhook-signature"})


def sign(
    secrets: Sequence[bytes], *, message_id: str, body: bytes, now: float | None = None
) -> dict[str, str]:
    """The headers that sign a request.

    Args:
        secrets: the keys, the newest first.
        message_id: the same for every attempt; without a dot.
        body: as it is sent.
        now: epoch seconds, by default of this machine.
    """
    timestamp = str(int(time.time() if now is None else now))
    signed = f"{message_id}.{timestamp}.".encode() + body
    signatures = (hmac.new(secret, signed, hashlib.sha256).digest() for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(one).decode('ascii')}" for one in signatures
        ),
    }
