"""The metrics: names, bounds, and figures that can be trusted."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.jobs.core.outcomes import Outcome
from service.observability import metrics, queue_gauges
from service.observability.events import REASONS_BY_EVENT
from service.observability.labels import MAX_LABEL_VALUES, OTHER, LabelBound
from service.observability.queue_gauges import QueueReading

SOURCE = Path(metrics.__file__).parents[1]


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(metrics, "known_job_type", LabelBound(3))
    monkeypatch.setattr(queue_gauges, "known_queue", LabelBound(3))
    yield
    queue_gauges.clear_queue_gauges()


def test_events_are_counted_by_type_and_status() -> None:
    def value() -> float:
        labels = {"event": "succeeded", "job_type": "test.counted", "status": "ok"}
        return sample("finmind_job_events_total", **labels) or 0.0

    before = value()
    metrics.record_event("succeeded", "test.counted")
    metrics.record_event("succeeded", "test.counted", count=41)
    assert value() == before + 42


@pytest.mark.usefixtures("small_bounds")
def test_job_types_beyond_the_bound_are_counted_as_other() -> None:
    def others() -> float:
        labels = {"event": "test_bound", "job_type": OTHER, "status": "ok"}
        return sample("finmind_job_events_total", **labels) or 0.0

    before = others()
    for number in range(10):
        metrics.record_event("test_bound", f"made-up-{number}", count=2)
    assert others() == before + 14


def test_reserved_names_are_named_however_many_came_before() -> None:
    bound = LabelBound(1)
    assert bound("first") == "first"
    assert bound("second") == OTHER
    bound.reserve(["second"])
    assert bound("second") == "second"


def test_a_histogram_counts_cumulatively_with_bounds_inclusive() -> None:
    for seconds in (0.0005, 0.001, 0.3, 1000.0):
        metrics.observe_run("test.histogram", seconds)
    assert sample("finmind_job_run_seconds_count", job_type="test.histogram") == 4
    assert sample("finmind_job_run_seconds_sum", job_type="test.histogram") == pytest.approx(
        1000.3015
    )
    for bound, expected in (("0.001", 2), ("0.25", 2), ("0.5", 3), ("300.0", 3), ("+Inf", 4)):
        labels = {"job_type": "test.histogram", "le": bound}
        assert sample("finmind_job_run_seconds_bucket", **labels) == expected


def test_a_start_before_the_due_time_counts_as_no_delay() -> None:
    metrics.observe_start_delay("test.early", -0.5)
    assert sample("finmind_job_start_delay_seconds_sum", queue="test.early") == 0


def reading(queue: str, depth: int) -> QueueReading:
    return QueueReading(queue, depth=depth, running=1, oldest_due_seconds=float(depth))


@pytest.mark.usefixtures("small_bounds")
def test_queues_that_vanished_are_shown_no_more() -> None:
    queue_gauges.set_queue_gauges([reading("a", 5), reading("b", 7)])
    queue_gauges.set_queue_gauges([reading("b", 8)])
    assert sample("finmind_queue_depth", queue="a") is None
    assert sample("finmind_queue_depth", queue="b") == 8
    queue_gauges.clear_queue_gauges()
    assert sample("finmind_queue_depth", queue="b") is None


def test_queues_beyond_the_bound_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_gauges, "MAX_LABEL_VALUES", 3)
    queue_gauges.set_queue_gauges([reading(f"q{number}", number) for number in range(6)])
    assert sample("finmind_queue_depth", queue=OTHER) == 0 + 1 + 2
    assert sample("finmind_queue_oldest_due_seconds", queue=OTHER) == 2
    assert sample("finmind_queue_running", queue=OTHER) == 3
    queue_gauges.clear_queue_gauges()


def test_the_exposition_is_what_prometheus_parses() -> None:
    metrics.observe_run("test.exposed", 0.1)
    metrics.reminder_event("sent", "email")
    families = {f.name for f in text_string_to_metric_families(generate_latest().decode())}
    assert {"finmind_job_run_seconds", "finmind_reminder_events"} <= families


def test_every_metric_is_in_the_catalogue_with_a_line_of_documentation() -> None:
    catalogue = {doc.name: doc for doc in metrics.catalogue()}
    exposed = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in REGISTRY.collect()
        if family.name.startswith("finmind_")
    }
    assert exposed == set(catalogue)
    assert all(doc.documentation.endswith(".") for doc in catalogue.values())
    assert catalogue["finmind_job_events_total"].labels == ("event", "job_type", "status")


@cache
def calls() -> list[ast.Call]:
    """Every call in the service's source."""
    return [
        node
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def words_given_to(function: str, position: int = 0) -> set[str]:
    """The texts that stand in one argument of every call of `function` in the service."""
    return {
        part.value
        for call in calls()
        if ast.unparse(call.func).split(".")[-1] == function
        for part in ast.walk(call.args[position])
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        (
            "finmind_job_events_total",
            lambda: (
                words_given_to("record_event") | {outcome.event for outcome in get_args(Outcome)}
            ),
        ),
        ("finmind_reminder_events_total", lambda: words_given_to("reminder_event")),
        (
            "finmind_job_batch_size",
            lambda: words_given_to("observe_batch") | words_given_to("Outbox"),
        ),
    ],
    ids=["jobs", "reminders", "batches"],
)
def test_the_catalogue_names_what_is_counted_and_nothing_else(
    name: str, counted: Callable[[], set[str]]
) -> None:
    (documentation,) = (doc.documentation for doc in metrics.catalogue() if doc.name == name)
    named = re.match(r"[^:]+: ([\w, ]+)", documentation)
    assert named is not None
    assert set(named[1].split(", ")) == counted()


def reasons_given() -> set[str]:
    """The reasons that stand in the engine's source, literally."""
    return {
        keyword.value.value
        for file in (SOURCE / "jobs").rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "reason"
        if isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
    }


def test_every_event_and_reason_can_be_shown_from_0_on() -> None:
    (documentation,) = (
        doc.documentation for doc in metrics.catalogue() if doc.name == "finmind_job_events_total"
    )
    assert all(event in documentation for event in REASONS_BY_EVENT)
    known = {status for statuses in REASONS_BY_EVENT.values() for status in statuses}
    assert reasons_given() <= known


def test_an_expected_type_shows_its_failures_before_the_first() -> None:
    metrics.expect_job_types(["test.expected"])
    for event, status in (("dead_lettered", "error"), ("failed", "bad_payload")):
        labels = {"event": event, "job_type": "test.expected", "status": status}
        assert sample("finmind_job_events_total", **labels) == 0


def test_a_reserved_queue_is_shown_whatever_crowd_is_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = LabelBound()
    known.reserve(["the-real-one"])
    monkeypatch.setattr(queue_gauges, "known_queue", known)
    crowd = [reading(f"q{number}", 10) for number in range(2 * MAX_LABEL_VALUES)]
    queue_gauges.set_queue_gauges([*crowd, reading("the-real-one", 1)])
    assert sample("finmind_queue_depth", queue="the-real-one") == 1
    assert sample("finmind_queue_depth", queue=OTHER) == (MAX_LABEL_VALUES + 1) * 10
    queue_gauges.clear_queue_gauges()


def test_the_longest_queues_are_shown_though_others_were_shown_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue_gauges, "known_queue", LabelBound())
    queue_gauges.set_queue_gauges(reading(f"old{n}", 1) for n in range(MAX_LABEL_VALUES))
    queue_gauges.set_queue_gauges(
        [*(reading(f"old{n}", 1) for n in range(MAX_LABEL_VALUES)), reading("new", 9)]
    )
    assert sample("finmind_queue_depth", queue="new") == 9
    queue_gauges.clear_queue_gauges()
