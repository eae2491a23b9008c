"""However many jobs fail for want of a handler, the log stays readable."""

from structlog.testing import capture_logs

from service.jobs.maintenance.unserved_log import EVERY_SECONDS, MAX_TYPES, UnservedLog


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_one_line_a_type_with_its_count() -> None:
    with capture_logs() as lines:
        UnservedLog(Clock()).add(["mail"] * 1000 + ["sms"])
    assert [(line["event"], line["job_type"], line["jobs"]) for line in lines] == [
        ("no_handler", "mail", 1000),
        ("no_handler", "sms", 1),
    ]


def test_what_fails_within_a_minute_is_summed_up_in_the_next_line() -> None:
    clock = Clock()
    log = UnservedLog(clock)
    with capture_logs() as lines:
        log.add(["mail"])
        for _ in range(27):
            clock.now += 1
            log.add(["mail"] * 1000)
        assert len(lines) == 1
        clock.now += EVERY_SECONDS
        log.add([])
    assert [line["jobs"] for line in lines] == [1, 27_000]


def test_types_without_end_share_a_line() -> None:
    with capture_logs() as lines:
        UnservedLog(Clock()).add(f"made-up-{number}" for number in range(300))
    assert len(lines) == MAX_TYPES + 1
    assert (lines[-1]["job_type"], lines[-1]["job_types"], lines[-1]["jobs"]) == ("other", 280, 280)
