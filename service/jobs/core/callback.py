"""What a job calls when it has ended: an `http.request` job, enqueued once for each end."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from service.errors import InvalidInput
from service.jobs.core.job import DEFAULT_QUEUE
from service.jobs.core.job_types import DEFAULTS, policies

CALLBACK_TYPE: Final = "http.request"
"""The type of the job that calls."""
MAX_URL_CHARS: Final = 2_000
URL: Final = re.compile(
    r"""https?://(\[[0-9a-f:.]+\]|[!"$-.0-9;->A-Z^-~]+)(:[0-9]*)?([/?][!"$-~]*)?""", re.IGNORECASE
)
"""The same as `jobs_check_ending` of SQL asks for."""
MAX_SECRET_NAME_CHARS: Final = 50
MAX_RESULT_BYTES: Final = 16_384
MAX_RESULT_DEPTH: Final = 64
"""A result that is longer as JSON, or nested deeper, is left out of the call."""


def callback_queue() -> str:
    """The queue of jobs that call, as far as this process knows."""
    return policies.get(CALLBACK_TYPE, DEFAULTS).queue or DEFAULT_QUEUE


def checked_callback(value: Any) -> str:
    """The same as JSON text, if it names a URL that can be called.

    Whether that may be called is for the job that calls to say: names are looked up then.

    Raises:
        InvalidInput: it does not.
    """
    if not isinstance(value, Mapping) or not {"url"} <= value.keys() <= {"url", "sign_with"}:
        raise InvalidInput(
            f"callback is {str(value)[:120]!r}: expected {{'url': 'https://host/path'}}, and sign_with if "
            "it is to be signed",
            field="callback",
        )
    url, secret = value["url"], value.get("sign_with")
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS or not URL.fullmatch(url):
        raise InvalidInput(
            f"callback.url is {str(url)[:120]!r}: expected http:// or https:// with a host, without a user "
            f"and a fragment, of at most {MAX_URL_CHARS} printable ASCII characters",
            field="callback.url",
        )
    if secret is None:
        return json.dumps({"url": url})
    if not isinstance(secret, str) or not 1 <= len(secret) <= MAX_SECRET_NAME_CHARS:
        raise InvalidInput(
            f"callback.sign_with is {str(secret)[:120]!r}: expected the name of a secret in TARGET_SECRETS",
            field="callback.sign_with",
        )
    return json.dumps({"url": url, "sign_with": secret})


def call_of(
    url: str, *, sign_with: str | None, status: str, ended: Mapping[str, Any]
) -> dict[str, Any]:
    """The payload of the job that calls: what ended, and how."""
    body = {"type": "job.ended", "job": {**ended, "status": status}}
    signed = {} if sign_with is None else {"sign_with": sign_with}
    return {"method": "POST", "url": url, "json": body, **signed}
