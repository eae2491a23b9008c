"""docs/api.md: its commands work as they stand."""

import json
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.auth.principal import ROLE_PERMISSIONS, Permission
from tests.api.conftest import Auth
from tests.jobs.rows import add

pytestmark = pytest.mark.whole

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
COMMANDS = [
    command
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for command in re.findall(r"^curl(?:\\\n|[^\n']|'[^']*')*", block, re.MULTILINE)
]
MAKES = ("/jobs", "/jobs/batch", "/admin/api-keys")
A_KEY = text(
    "INSERT INTO api_keys (prefix, secret_hash, name, scopes, created_by) "
    "VALUES ('0123456789', sha256('secret'), 'old', '{jobs:read}', 'tester')"
)


def parse(command: str, headers: dict[str, str]) -> httpx.Request:
    """The request that curl would send."""
    words = shlex.split(command.replace("\\\n", " "), comments=True)[1:]
    method, url, get = None, "", False
    data: list[str] = []
    sent = dict(headers)
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            value = words.pop(0)
            if value != "$AUTH":
                name, _, text = value.partition(": ")
                sent[name] = text
        elif word in ("-d", "--data-urlencode"):
            data.append(words.pop(0))
        elif word == "-o":
            words.pop(0)
        elif word == "-G":
            get = True
        elif word not in ("-i", "-N"):
            assert word.startswith("$BASE"), word
            url = word.replace("$BASE", "http://service.test")
    if get:
        pairs: list[tuple[str, str | int | float | bool | None]] = [
            (name, text) for name, _, text in (one.partition("=") for one in data)
        ]
        return httpx.Request("GET", url, params=pairs, headers=sent)
    body = data[0].encode() if data else None
    return httpx.Request(method or ("POST" if body else "GET"), url, content=body, headers=sent)


def test_the_page_shows_every_endpoint() -> None:
    assert len(COMMANDS) == 32


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_of_the_page_works(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, command: str
) -> None:
    request = parse(command, auth("admin"))
    waits = any(part in command for part in ("/cancel", "/run-now", "/events/", "PATCH"))
    status = "PENDING" if waits else "DEAD_LETTER"
    async with app.state.service.database.sessions.begin() as session:
        await add(session, id=42, status=status)
        await add(session, id=43, status="FAILED", fingerprint="c0ffee0123456789")
        await session.execute(A_KEY)
    answer = await client.send(request)
    path = urlsplit(str(request.url)).path
    makes = request.method == "POST" and (
        path in MAKES or path.endswith(("/clone", "/events/paid"))
    )
    expected = 201 if makes else 204 if request.method == "DELETE" else 200
    assert answer.status_code == expected, answer.text


async def test_the_problem_of_the_page_is_one_that_is_sent(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    shown = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[-1])
    answer = await client.post(
        "/jobs", json={"job_type": "m", "priority": 10}, headers=auth("admin")
    )
    assert answer.json() | {"request_id": shown["request_id"]} == shown


def test_the_page_says_what_each_role_may_do() -> None:
    columns = (
        Permission.JOBS_WRITE,
        Permission.JOBS_READ,
        Permission.ADMIN_READ,
        Permission.ADMIN_OPERATE,
        Permission.KEYS_MANAGE,
    )
    shown = {
        role: tuple(cell.strip() == "yes" for cell in cells.split("|")[:5])
        for role, cells in re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGE, re.MULTILINE)
        if role in [str(role) for role in ROLE_PERMISSIONS]
    }
    assert shown == {
        str(role): tuple(permission in granted for permission in columns)
        for role, granted in ROLE_PERMISSIONS.items()
    }


def test_the_page_names_every_permission() -> None:
    assert [name for name in Permission if f"`{name}`" not in PAGE] == []
