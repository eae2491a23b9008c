"""The command `jobs`."""

from tests.running import Run


def test_explain_says_what_a_job_waits_for_and_what_to_do(run: Run, pg_dsn: str) -> None:
    job = run("enqueue", "mail", DATABASE_URL=pg_dsn).stdout.strip()
    said = run("jobs", "explain", job, DATABASE_URL=pg_dsn).stdout
    assert f"Job {job}, mail in the queue default: PENDING" in said
    assert "no worker is alive" in said
    assert "HANDLER_MODULES" in said
    missing = run("jobs", "explain", "4711", DATABASE_URL=pg_dsn)
    assert missing.returncode == 2
    assert "There is no job 4711" in missing.stderr


def test_send_event_sends_what_a_step_waits_for_once(run: Run, pg_dsn: str) -> None:
    job = run("enqueue", "order", DATABASE_URL=pg_dsn).stdout.strip()

    def send(*arguments: str) -> tuple[int, str]:
        done = run("jobs", "send-event", job, *arguments, DATABASE_URL=pg_dsn)
        return done.returncode, done.stderr

    code, said = send("paid", "--data", '{"amount": 5}', "--reason", "by phone")
    assert (code, "has the event paid" in said) == (0, True)
    code, said = send("paid")
    assert (code, "with other data" in said) == (2, True)
    code, said = send("paid", "--data", "{")
    assert (code, "--data is not JSON" in said) == (2, True)
