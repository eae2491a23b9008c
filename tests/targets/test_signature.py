"""Requests are signed as the specification of Standard Webhooks says."""

import base64
from collections.abc import Callable

import pytest
from pydantic import SecretStr, ValidationError

from service.settings import Settings
from service.targets.signature import sign

from .conftest import Deliver
from .servers import running

# Of the specification's reference libraries.
SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

OLD, NEW = (base64.b64encode(bytes([byte]) * 32).decode() for byte in (1, 2))


def test_the_vector_of_the_specification_holds() -> None:
    signed = sign([base64.b64decode(SECRET)], message_id=MESSAGE_ID, body=BODY, now=1_614_265_330)
    assert signed == {
        "webhook-id": MESSAGE_ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


@pytest.mark.whole
async def test_a_request_has_a_signature_of_each_active_secret(deliver: Deliver) -> None:
    async with running() as target:
        signed, unknown = await deliver(
            {"url": target.url, "json": {"n": 1}, "sign_with": "crm"},
            {"url": target.url, "sign_with": "nobody"},
            target_secrets=SecretStr(f"crm=whsec_{NEW}, billing=whsec_{OLD}, crm=whsec_{OLD}"),
        )
    assert (unknown.status, signed.status) == ("FAILED", "SUCCESS")
    assert "set it in TARGET_SECRETS" in (unknown.last_error or "")
    (got,) = target.requests
    expected = sign(
        [base64.b64decode(NEW), base64.b64decode(OLD)],
        message_id=f"job_{signed.id}",
        body=got.body,
        now=int(got.headers["webhook-timestamp"]),
    )
    assert {name: got.headers[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("crm", "entry 1 is not name=whsec_"),
        (f"crm=whsec_{NEW},=whsec_{OLD}", "entry 2 is not"),
        ("crm=whsec_c2hvcnQ=", "not 24 to 64 bytes"),
        (f"crm=whsec_{NEW}?", "not 24 to 64 bytes"),
        (f"c=whsec_{NEW},c=whsec_{NEW},c=whsec_{OLD}", "c has more than 2 secrets"),
    ],
)
def test_a_bad_secret_is_refused_and_not_quoted(
    make_settings: Callable[..., Settings], value: str, words: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        make_settings(target_secrets=SecretStr(value))
    assert words in str(refusal.value)
    assert NEW not in str(refusal.value)
