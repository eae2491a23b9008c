"""The command `migrate`, and what is said where it has not run."""

import re

import pytest

from tests.running import Run


@pytest.mark.parametrize("command", [("serve",), ("worker",), ("enqueue", "demo.ok")])
def test_a_missing_schema_is_one_sentence_with_what_to_run(
    run: Run, empty_dsn: str, command: tuple[str, ...]
) -> None:
    settings = {"DATABASE_URL": empty_dsn, "AUTO_MIGRATE": "false"}
    done = run(*command, **settings, LOG_LEVEL="WARNING", WORKER_PORT="0")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: The database has no schema\. .* run `python -m service migrate` first\.\n",
        done.stderr,
    )
    assert run("migrate", **settings).returncode == 0
    left = run("enqueue", "demo.ok", **settings)
    assert (left.returncode, left.stderr) == (0, "")


def test_an_outdated_schema_is_one_sentence_with_what_to_run(run: Run, empty_dsn: str) -> None:
    assert run("migrate", "--to", "0001", DATABASE_URL=empty_dsn).returncode == 0
    done = run("serve", DATABASE_URL=empty_dsn, AUTO_MIGRATE="false", LOG_LEVEL="WARNING")
    assert done.returncode == 2
    assert "is at revision 0001" in done.stderr
    assert "python -m service migrate" in done.stderr


def test_migrate_prints_only_what_it_would_run(run: Run, pg_dsn: str, empty_dsn: str) -> None:
    everything = run("migrate", "--sql", DATABASE_URL=empty_dsn)
    assert "CREATE TABLE background_jobs" in everything.stdout, everything.stderr
    nothing = run("migrate", "--sql", DATABASE_URL=pg_dsn)
    assert (nothing.returncode, nothing.stdout) == (0, "-- nothing to do\n")


def test_migrate_goes_back_only_when_told_that_it_may(run: Run, pg_dsn: str) -> None:
    refused = run("migrate", "--to", "base", DATABASE_URL=pg_dsn)
    assert refused.returncode == 2
    assert "--back" in refused.stderr
    assert run("migrate", "--to", "base", "--back", DATABASE_URL=pg_dsn).returncode == 0
    assert run("migrate", DATABASE_URL=pg_dsn).returncode == 0
    assert run("enqueue", "demo.ok", DATABASE_URL=pg_dsn).returncode == 0
