"""Whose word on a client's address is taken."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.processes.fleet import Fleet

pytestmark = pytest.mark.whole

LIMIT = 5


@pytest.mark.parametrize(
    ("trusted", "last"), [({}, 429), ({"FORWARDED_ALLOW_IPS": "10.0.0.0/8, 127.0.0.1"}, 401)]
)
async def test_a_forwarded_address_is_believed_of_named_proxies_alone(
    tmp_path: Path, pg_dsn: str, trusted: dict[str, str], last: int
) -> None:
    fleet = Fleet(tmp_path)
    try:
        (replica,) = await fleet.start(1, pg_dsn, FAILED_SIGN_INS_PER_MINUTE=LIMIT, **trusted)
        async with httpx.AsyncClient(base_url=replica.url) as client:
            answers = [
                await client.get(
                    "/jobs/1",
                    headers={
                        "x-forwarded-for": f"192.0.2.{number}",
                        "authorization": "Bearer a.b.c",
                    },
                )
                for number in range(LIMIT + 2)
            ]
    finally:
        fleet.stop()
    assert answers[0].status_code == 401
    assert answers[-1].status_code == last


@pytest.mark.parametrize("value", ["proxy.example.org", "10.0.0.1/8", "10.0.0", "127.0.0.1,x"])
def test_what_is_no_address_of_a_proxy_is_refused(
    make_settings: Callable[..., Settings], value: str
) -> None:
    with pytest.raises(ValidationError, match="expected an address"):
        make_settings(forwarded_allow_ips=value)
