"""The rules of a payload: each refusal names the value and the way out."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.targets.request import HttpRequest

URL = "https://example.com/hook"


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, "Field required"),
        ({"url": "example.com"}, "expected http://host/path"),
        ({"url": "https://u:p@example.com/"}, "send credentials in the header Authorization"),
        ({"url": "https://example.com/#x"}, "a fragment"),
        ({"url": "https://example.com/a b"}, "percent-encode"),
        ({"url": "https://example.com/é"}, "percent-encoded"),
        ({"url": "https://example.com:0/"}, "the port '0'"),
        ({"url": "https://example.com:/"}, "the port ''"),
        ({"url": "https://example.com:65536/"}, "the port '65536'"),
        ({"url": "https://0x7f.1/"}, "write it as four decimal"),
        ({"url": "https://[::1%25lo]/"}, "has a zone"),
        ({"url": "https://example.com/" + "x" * 2_048}, "at most 2048"),
        ({"url": URL, "method": "CONNECT"}, "'GET'"),
        ({"url": URL, "method": "post"}, "'GET'"),
        ({"url": URL, "headers": {"Host": "x"}}, "Host is set by the service"),
        ({"url": URL, "headers": {"transfer-Encoding": "chunked"}}, "is set by the service"),
        ({"url": URL, "headers": {"Webhook-Signature": "v1,x"}}, "is set by the service"),
        ({"url": URL, "headers": {"A B": "x"}}, "not the name of a header"),
        ({"url": URL, "headers": {"X": "a\r\nHost: b"}}, "a character that headers cannot"),
        ({"url": URL, "headers": {"X": "é"}}, "a character that headers cannot"),
        ({"url": URL, "headers": {"X": "a", "x": "b"}}, "given twice"),
        ({"url": URL, "headers": {"Authorization": "••••••"}}, "send the secret itself"),
        ({"url": URL, "headers": {"X": "y" * 9_000}}, "more than 8192"),
        ({"url": URL, "json": 1, "text": "x"}, "json and text are given"),
        ({"url": URL, "method": "GET", "json": {}}, "a GET request has no body"),
        ({"url": URL, "base64": "a"}, "not base64"),
        ({"url": URL, "redirects": 4}, "less than or equal to 3"),
        ({"url": URL, "timeout_seconds": 0}, "greater than 0"),
        ({"url": URL, "follow": True}, "Extra inputs"),
    ],
)  # fmt: skip
def test_a_bad_payload_is_refused_with_the_way_out(payload: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        HttpRequest.model_validate(payload)
    assert words in str(refusal.value)
