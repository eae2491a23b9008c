"""The whole API attacked by its own description, with every check that Schemathesis knows.

Its findings fail a run by themselves. What it cannot know is looked up in its record of every
request: that nothing privileged succeeded, and that nothing at all ended in a 5xx.
"""

import asyncio
import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.auth.principal import ROLE_PERMISSIONS, Role
from tests.api.conftest import Auth
from tests.api.test_policies import PUBLIC, TABLE, matches
from tests.processes.fleet import Replica

HERE = Path(__file__).parent
TOOL = Path(sys.prefix) / "security" / "bin" / "schemathesis"
SEED = int(os.environ.get("SECURITY_SEED", "20261124"))
EXAMPLES = int(os.environ.get("SECURITY_EXAMPLES", "50"))
RUN_SECONDS = 900
LASTING_SECONDS = 3600
NEED_LUCK = {("POST", "/admin/jobs/{job_id}/retry"), ("POST", "/admin/jobs/{job_id}/cancel")}
"""A job of the right status must be met; whether one is depends on the seed."""
LINKS_BY_LUCK = 2
"""Of the document's links so many may not be met, by the seed."""

pytestmark = [pytest.mark.security, pytest.mark.timeout(RUN_SECONDS + 60)]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request that was sent, and the status that came back."""

    method: str
    path: str
    status: int
    with_credential: bool

    @property
    def route(self) -> tuple[str, str]:
        """The route that served it; a path of its own goes before a template."""
        fitting = [
            (method, template)
            for method, template in TABLE
            if method == self.method and matches(template, self.path)
        ]
        return min(fitting, key=lambda route: route[1].count("{"), default=(self.method, ""))


async def attack(
    replica: Replica, directory: Path, headers: dict[str, str]
) -> tuple[list[Exchange], str]:
    """Run Schemathesis, which must find nothing; every request that it sent, and what it said."""
    record = directory / "record.har"
    process = await asyncio.create_subprocess_exec(
        TOOL,
        "--config-file",
        HERE / "schemathesis.toml",
        "--no-color",
        "run",
        f"{replica.url}/openapi.json",
        "--checks=all",
        "--continue-on-failure",
        f"--max-examples={EXAMPLES}",
        f"--seed={SEED}",
        "--request-timeout=30",
        "--generation-database=none",
        "--output-sanitize=false",
        "--report=har",
        f"--report-har-path={record}",
        # It takes its own away by this spelling, to see what comes without.
        *(f"--header={name.title()}: {value}" for name, value in headers.items()),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(HERE.parents[1]),
            "SCHEMATHESIS_HOOKS": "tests.security.generated",
        },
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode(errors="replace")[-20_000:]
    exchanges = exchanges_in(record, credential=headers.get("authorization"))
    return exchanges, said.decode(errors="replace")


def exchanges_in(record: Path, *, credential: str | None) -> list[Exchange]:
    found = []
    for entry in json.loads(record.read_text())["log"]["entries"]:
        request = entry["request"]
        sent = {header["name"].lower(): header["value"] for header in request["headers"]}
        found.append(
            Exchange(
                request["method"],
                urlsplit(request["url"]).path,
                entry["response"]["status"],
                credential is not None and sent.get("authorization") == credential,
            )
        )
    return found


@pytest.mark.parametrize(
    "role", [None, Role.USER, Role.SERVICE, Role.VIEWER, Role.OPERATOR, Role.ADMIN], ids=str
)
async def test_nothing_is_found_and_nothing_privileged_succeeds(
    replica: Replica, auth: Auth, tmp_path: Path, role: Role | None
) -> None:
    headers = auth(role, lasting=LASTING_SECONDS) if role is not None else {}
    exchanges, report = await attack(replica, tmp_path, headers)
    assert len(exchanges) > 300
    assert [exchange for exchange in exchanges if exchange.status >= 500] == []
    granted = ROLE_PERMISSIONS[role] if role is not None else frozenset()
    succeeded = Counter(e.route for e in exchanges if 200 <= e.status < 300)
    privileged = [
        exchange
        for exchange in exchanges
        if 200 <= exchange.status < 300
        and (policy := TABLE[exchange.route]) != PUBLIC
        and (not exchange.with_credential or policy not in granted)
    ]
    assert privileged == []
    if role is Role.ADMIN:
        # Else the absence of findings would say nothing of what was never reached.
        documented = {
            (method, path)
            for method, path in TABLE
            if method != "HEAD" and path not in {"/", "/docs", "/openapi.json"}
        }
        assert documented - set(succeeded) <= NEED_LUCK
        links = re.search(r"API Links: +(\d+) covered / (\d+) selected", report)
        assert links is not None, report
        assert int(links[1]) >= int(links[2]) - LINKS_BY_LUCK
    said = replica.said()
    assert "request_failed" not in said
    assert "Traceback" not in said
