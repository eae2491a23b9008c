"""What every command says about the database and the settings that it cannot use."""

import re
import socket
from pathlib import Path

import pytest

from tests.running import Run


@pytest.mark.parametrize("password", ["hun#ter2", "hun@ter2", "hun/ter2", "hun?ter2"])
def test_an_invalid_database_url_is_one_sentence_with_the_way_out(run: Run, password: str) -> None:
    done = run("serve", DATABASE_URL=f"postgresql://ada:{password}@127.0.0.1:1/jobs")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Bad configuration:\n  DATABASE_URL: cannot be read")
    assert "percent-encoded" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "ter2" not in done.stdout + done.stderr


def test_production_refuses_to_start_and_names_all_that_is_missing(run: Run) -> None:
    done = run("serve", ENVIRONMENT="production")
    assert done.returncode == 2
    assert "DATABASE_URL" in done.stderr
    assert "JWT_SECRET" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_is_not_there_is_an_error_of_one_line(run: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run("migrate", DATABASE_URL=f"postgresql://nobody@127.0.0.1:{port}/none")
    assert done.returncode == 1
    assert re.fullmatch(r"error: the database does not answer: .*\n", done.stderr)


def test_a_short_command_says_which_database_it_used_and_that_it_made_one(
    run: Run, tmp_path: Path
) -> None:
    first = run("enqueue", "demo.ok", LOG_LEVEL="WARNING")
    made = (
        f"No DATABASE_URL is set: a new, empty database was made in {tmp_path}/data (DATA_DIR).\n"
    )
    assert (first.returncode, first.stderr) == (0, made)
    second = run("enqueue", "demo.ok", LOG_LEVEL="WARNING")
    used = f"No DATABASE_URL is set: using the database in {tmp_path}/data (DATA_DIR).\n"
    assert (second.returncode, second.stderr) == (0, used)


def test_what_postgresql_refuses_is_one_line_with_its_words(run: Run, pg_dsn: str) -> None:
    elsewhere = re.sub(r"/finmind_test\w+", "/no_such_database", pg_dsn)
    done = run("migrate", DATABASE_URL=elsewhere)
    assert done.returncode == 1
    expected = 'error: PostgreSQL refuses: database "no_such_database" does not exist\n'
    assert done.stderr == expected


def test_a_data_dir_that_is_a_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("migrate", DATA_DIR=str(tmp_path / "file"))
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'file'}: File exists\n"
