"""The command `token`."""

import re
from pathlib import Path

from service.auth.tokens import TokenVerifier
from service.settings import Settings
from tests.conftest import TEST_SECRET
from tests.running import Run


async def test_token_prints_a_token_that_holds(run: Run, settings: Settings) -> None:
    done = run("token", "--role", "operator", "--sub", "night-shift", JWT_SECRET=TEST_SECRET)
    principal = await TokenVerifier(settings).verify(done.stdout.strip())
    assert (principal.subject, principal.role) == ("night-shift", "operator")


def test_token_makes_no_secret_that_no_server_uses(run: Run, tmp_path: Path) -> None:
    done = run("token", "--role", "viewer")
    assert done.returncode == 2
    assert re.fullmatch(
        rf"error: No server has been started with {tmp_path}/data, .*\n", done.stderr
    )
    assert not (tmp_path / "data").exists()
