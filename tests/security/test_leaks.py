"""Canary secrets: put wherever the service has secrets, and looked for wherever it speaks."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
import pytest
from fastapi import FastAPI

from tests import databases
from tests.api.conftest import Auth
from tests.api.test_policies import TABLE
from tests.conftest import TEST_SECRET
from tests.processes.fleet import Fleet, Replica, until

CANARIES = {
    "database": "canary-of-the-database",
    "smtp": "canary-of-the-mail-server",
    "twilio": "canary-of-twilio",
    "payload": "canary-of-a-payload",
    "message": "canary-of-a-message",
    "recipient": "canary-of-a-recipient",
    "header": "canary-of-a-header",
    "query": "canary-of-a-query",
}


def with_password(dsn: str, password: str) -> str:
    """The same address with a password, which a server that trusts its callers passes over."""
    parts = urlsplit(dsn)
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{password}@{place}"))


@pytest.fixture
async def talkative(fleet: Fleet, pg_dsn: str) -> Replica:
    """A process that logs all that it can, with a canary for every secret of its settings."""
    (replica,) = await fleet.start(
        1,
        with_password(pg_dsn, CANARIES["database"]),
        LOG_LEVEL="DEBUG",
        LOG_FORMAT="json",
        DEMO_HANDLERS="true",
        REMINDER_SCAN_SECONDS=0.2,
        UNKNOWN_TYPE_GRACE_SECONDS=0,
        CHECK_PAYLOADS="false",  # a payload that its handler refuses is to get that far
        # In production a reminder's words are its user's own. Nobody listens on these ports.
        ENVIRONMENT="production",
        SMTP_URL=f"smtp://jobs:{CANARIES['smtp']}@127.0.0.1:9",
        EMAIL_FROM="jobs@finmind.example",
        TWILIO_BASE_URL="http://127.0.0.1:9",
        TWILIO_ACCOUNT_SID="AC1",
        TWILIO_AUTH_TOKEN=CANARIES["twilio"],
        TWILIO_WHATSAPP_FROM="+14155238886",
    )
    return replica


def spellings(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield json.dumps(secret)[1:-1]


def found_in(text: str, secrets: dict[str, str]) -> list[str]:
    return [name for name, secret in secrets.items() if any(s in text for s in spellings(secret))]


@pytest.mark.security
async def test_no_secret_is_in_a_log_a_metric_an_error_or_a_page(
    talkative: Replica, pg_dsn: str, auth: Auth
) -> None:
    admin = auth("admin")
    token = admin["authorization"].removeprefix("Bearer ")
    said: list[str] = []
    async with httpx.AsyncClient(base_url=talkative.url, timeout=20) as client:

        async def ask(
            method: str, path: str, headers: Any = admin, **options: Any
        ) -> httpx.Response:
            answer = await client.request(method, path, headers=headers, **options)
            said.append(f"{answer.status_code} {answer.headers} ")
            return answer

        key = (
            await ask("POST", "/admin/api-keys", json={"name": "n", "scopes": ["jobs:read"]})
        ).json()["key"]
        secrets = CANARIES | {
            "signing secret": TEST_SECRET, "token": token, "api key": key.partition(".")[2],
        }  # fmt: skip
        refused = [
            await ask("GET", "/admin/jobs", {"authorization": f"Bearer {token}x"}),
            await ask("GET", "/admin/jobs", {"X-API-Key": key[:-2] + "zz"}),
            await ask("GET", "/admin/jobs", {"X-API-Key": key}),
            await ask("GET", "/admin/jobs", {"authorization": f"Basic {CANARIES['header']}"}),
            await ask("GET", "/admin/jobs", admin | {"X-API-Key": key}),
            await ask("GET", f"/nowhere?token={CANARIES['query']}", admin),
            await ask("GET", "/admin/jobs", params={"error": CANARIES["query"], "limit": 10**6}),
            await ask("POST", "/jobs", json={"job_type": "a b", "payload": CANARIES["payload"]}),
            await ask("POST", "/jobs", content=f'{{"payload": "{CANARIES["payload"]}"'.encode()),
            await ask("POST", "/reminders", json={"message": CANARIES["message"] * 50}),
        ]
        assert {answer.status_code for answer in refused} <= {401, 403, 404, 415, 422}
        said += [answer.text for answer in refused]
        for job in (
            {"job_type": "demo.ok", "payload": {"number": 1, "secret": CANARIES["payload"]}},
            {"job_type": "demo.dies", "payload": {"number": 1}, "max_retries": 0},
            {"job_type": "nobody", "payload": {"secret": CANARIES["payload"]}},
        ):
            assert (await ask("POST", "/jobs", json=job)).status_code == 201
        for channel, recipient in (
            ("email", f"{CANARIES['recipient']}@example.org"),
            ("whatsapp", "+14155238886"),
            ("log", CANARIES["recipient"]),
        ):
            body = {
                "message": CANARIES["message"], "send_at": "2020-01-01T00:00:00Z",
                "channel": channel, "recipient": recipient,
            }  # fmt: skip
            assert (await ask("POST", "/reminders", json=body)).status_code == 201

        async def all_tried() -> bool:
            listed = (await client.get("/reminders", headers=admin)).json()["reminders"]
            return all(reminder["status"] not in ("scheduled", "queued") for reminder in listed)

        await until(all_tried, 30, what="attempts at every reminder")
        listed = await client.get("/reminders", headers=admin)
        errors = [str(reminder["last_error"]) for reminder in listed.json()["reminders"]]
        jobs = (await client.get("/admin/jobs", headers=admin)).json()["jobs"]
        said += [*errors, *(str(job["last_error"]) for job in jobs)]
        for path in ("/metrics", "/health/ready", "/health/live", "/docs", "/openapi.json", "/"):
            said.append((await client.get(path)).text)
        # Nobody expected this, so all that is known of it is logged: whose words were they?
        await databases.execute(pg_dsn, "ALTER TABLE reminders RENAME TO elsewhere")
        unexpected = await ask("POST", "/reminders", json=body)
        await databases.execute(pg_dsn, "ALTER TABLE elsewhere RENAME TO reminders")
        assert unexpected.status_code == 500
        said.append(unexpected.text)
        # The database goes: its address and password stand in the errors of its driver.
        elsewhere = databases.with_database(pg_dsn, "postgres")
        await databases.execute(elsewhere, connections(pg_dsn, allowed=False), end_all(pg_dsn))
        try:
            unavailable = [await ask("GET", path) for path in ("/admin/jobs", "/admin/jobs/stats")]
            said += [answer.text for answer in unavailable]
            said.append((await client.get("/health/ready")).text)
            assert {answer.status_code for answer in unavailable} == {503}
        finally:
            await databases.execute(elsewhere, connections(pg_dsn, allowed=True))
    await asyncio.to_thread(talkative.process.terminate)
    await asyncio.to_thread(talkative.process.wait, 40)
    logged = talkative.said()
    assert "UndefinedTableError" in logged
    assert found_in(logged, secrets) == []
    assert found_in("\n".join(said), secrets) == []


def connections(dsn: str, *, allowed: bool) -> str:
    return f"ALTER DATABASE {urlsplit(dsn).path[1:]} ALLOW_CONNECTIONS {allowed}"


def end_all(dsn: str) -> str:
    return (
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
        f" WHERE datname = '{urlsplit(dsn).path[1:]}'"
    )


BREAK = [
    "ALTER TABLE background_jobs RENAME TO canary_table",
    "ALTER TABLE job_stats RENAME TO canary_stats",
    "ALTER TABLE reminders RENAME TO canary_reminders",
    "ALTER TABLE api_keys RENAME TO canary_keys",
    "ALTER TABLE idempotency_keys RENAME TO canary_idempotency",
    "ALTER TABLE jobs_live RENAME TO canary_live",
]
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/jobs"): {"job_type": "mail", "payload": {"canary": "canary_payload"}},
    ("POST", "/jobs/batch"): {"jobs": [{"job_type": "mail", "payload": {"canary": "canary_payload"}}]},
    ("POST", "/admin/api-keys"): {"name": "canary_name", "scopes": ["jobs:read"]},
    ("POST", "/reminders"): {
        "message": "canary_message", "send_at": "2100-01-01T00:00:00Z", "channel": "log",
        "recipient": "canary_recipient",
    },
    ("PATCH", "/reminders/{reminder_id}"): {"message": "canary_message"},
}  # fmt: skip


async def test_a_500_tells_nothing_but_where_to_look(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, pg_dsn: str
) -> None:
    await databases.execute(pg_dsn, *BREAK)
    broken: list[tuple[str, str]] = []
    for method, template in TABLE:
        path = (
            template.replace("{job_id}", "1")
            .replace("{reminder_id}", "1")
            .replace("{prefix}", "0" * 10)
        )
        answer = await client.request(
            method, path, json=BODIES.get((method, template)), headers=auth("admin")
        )
        if answer.status_code < 500:
            continue
        broken.append((method, template))
        problem = answer.json()
        assert set(problem) == {"type", "title", "status", "detail", "request_id"}
        for word in (
            "canary",
            "SELECT",
            "relation",
            "asyncpg",
            "Traceback",
            ".py",
            "sqlalchemy",
            "postgres",
        ):
            assert word.lower() not in answer.text.lower(), (method, template, word)
        assert "server" not in answer.headers
    # What reads or writes a table must be among them, else this has shown nothing.
    assert {("POST", "/jobs"), ("GET", "/admin/jobs"), ("GET", "/reminders")} <= set(broken)


def test_what_is_printed_of_the_settings_holds_no_secret(make_settings: Callable[..., Any]) -> None:
    settings = make_settings(
        database_url=f"postgresql://u:{CANARIES['database']}@h/d",
        smtp_url=f"smtp://u:{CANARIES['smtp']}@h",
        email_from="jobs@finmind.example",
        twilio_account_sid="AC1",
        twilio_auth_token=CANARIES["twilio"],
        twilio_whatsapp_from="+14155238886",
        jwt_secret=TEST_SECRET,
    )
    printed = f"{settings!r} {settings} {settings.model_dump_json()} {settings.model_dump()}"
    assert found_in(printed, CANARIES | {"signing secret": TEST_SECRET}) == []
