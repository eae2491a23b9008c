"""The command `api-keys`."""

from tests.running import Run


def test_an_api_key_is_shown_once_listed_and_revoked(run: Run, pg_dsn: str) -> None:
    made = run("api-keys", "create", "billing", "--scope", "jobs:write", DATABASE_URL=pg_dsn)
    key = made.stdout.strip()
    prefix, _, secret = key.removeprefix("fmj_").partition(".")
    listed = run("api-keys", "list", DATABASE_URL=pg_dsn).stdout
    assert prefix in listed
    assert secret not in listed
    assert "revoked" in run("api-keys", "revoke", prefix, DATABASE_URL=pg_dsn).stdout
