"""Nobody who logs waits for whoever reads the log."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.observability.log_writer import MAX_WAITING_BYTES, LogWriter
from service.observability.logging import configure_logging, get_logger
from service.settings import Settings

LINE = "x" * 1_000
LINES = 2 * MAX_WAITING_BYTES // len(LINE)


def dropped() -> float:
    return REGISTRY.get_sample_value("finmind_log_lines_dropped_total") or 0.0


@pytest.fixture
def reader(make_settings: Callable[..., Settings]) -> Iterator[int]:
    """The other end of the pipe that is logged to."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        configure_logging(make_settings(log_format="json"), stream=stream)
    yield reading
    configure_logging(make_settings(log_format="json", log_level="INFO"))
    os.close(reading)


def read_until(reader: int, event: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    with os.fdopen(os.dup(reader)) as stream:
        while not lines or lines[-1]["event"] != event:
            lines.append(json.loads(stream.readline()))
    return lines


@pytest.mark.whole
def test_unread_lines_are_dropped_and_counted(reader: int) -> None:
    before = dropped()
    for number in range(LINES):
        get_logger("x").info("line", number=number, text=LINE)
    lost = dropped() - before
    assert 0 < lost < LINES
    lines = read_until(reader, "log_lines_dropped")
    assert lines[-1]["count"] == lost
    kept = [line["number"] for line in lines[:-1]]
    assert kept == list(range(LINES - int(lost)))
    get_logger("x").info("after")
    assert read_until(reader, "after")[-1]["event"] == "after"


def test_a_log_whose_reader_is_gone_is_counted_as_dropped(
    make_settings: Callable[..., Settings],
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        configure_logging(make_settings(log_format="json"), stream=stream)
    before = dropped()
    get_logger("x").info("line")
    for handler in logging.getLogger().handlers:
        handler.flush()
    configure_logging(make_settings(log_format="json", log_level="INFO"))
    assert dropped() == before + 1


def test_a_line_that_cannot_be_formatted_is_named(reader: int) -> None:
    (writer,) = [h for h in logging.getLogger().handlers if isinstance(h, LogWriter)]
    record = logging.LogRecord("theirs", logging.INFO, __file__, 1, "%d jobs", ("no",), None)
    writer.handle(record)
    get_logger("x").info("after")
    first = read_until(reader, "after")[0]
    assert (first["event"], first["origin"]) == ("log_line_unreadable", "theirs")


def test_lines_of_many_threads_are_whole(reader: int) -> None:
    def log(who: int) -> None:
        for number in range(100):
            get_logger("x").info("line", who=who, number=number)

    threads = [threading.Thread(target=log, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    get_logger("x").info("after")
    lines = read_until(reader, "after")
    for who in range(8):
        assert [line["number"] for line in lines if line.get("who") == who] == list(range(100))


FORKING = """
import os
from service.observability.logging import configure_logging, get_logger
from service.settings import Settings

configure_logging(Settings(log_format="json"))
get_logger("x").info("parent")
if os.fork() == 0:
    get_logger("x").info("child")
else:
    os.wait()
    get_logger("x").info("parent again")
"""


def test_a_process_that_was_forked_writes_its_own_lines(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert sorted(events) == ["child", "parent", "parent again"]
