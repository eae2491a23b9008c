"""Charts: what is drawn is what was counted, inside of its axes, with round numbers."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dashboard.charts import (
    BOTTOM,
    DURATION_TICKS,
    HEIGHT,
    LEFT,
    MAX_Y_LABELS,
    WIDTH,
    Chart,
    Series,
    count_ticks,
    duration_axis,
    histogram,
    percentiles,
    stacked,
    time_labels,
)

BEGIN = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


def begins(number: int, step_seconds: int = 60) -> list[datetime]:
    return [BEGIN + timedelta(seconds=step_seconds * place) for place in range(number)]


def numbers(chart: Chart) -> list[float]:
    """Every coordinate of its paths."""
    shapes = [*chart.areas, *chart.lines]
    return [float(one) for shape in shapes for one in re.findall(r"-?\d+\.?\d*", shape.path)]


@given(st.floats(min_value=0, max_value=1e12))
def test_an_axis_of_counts_has_few_round_whole_numbers_and_holds_the_highest(
    highest: float,
) -> None:
    ticks = count_ticks(highest)
    assert ticks[0] == 0
    assert ticks[-1] >= highest or highest <= 0
    assert len(ticks) <= MAX_Y_LABELS + 1
    if len(ticks) > 1:
        step = ticks[1]
        assert str(step).rstrip("0") in {"1", "2", "5"}
        assert ticks == [step * place for place in range(len(ticks))]


@given(st.lists(st.floats(min_value=0, max_value=90_000), max_size=9))
def test_an_axis_of_durations_holds_them_all(values: list[float]) -> None:
    low, high, ticks = duration_axis(values)
    assert 0 < low < high
    assert all(value <= high for value in values)
    assert all(value >= low for value in values if value >= DURATION_TICKS[0])
    assert ticks


@given(st.lists(st.tuples(*[st.integers(0, 10**9)] * 2), min_size=1, max_size=100))
def test_bars_stand_on_each_other_inside_of_the_plot(counts: list[tuple[int, int]]) -> None:
    low, high = zip(*counts, strict=True)
    series = [Series("a", low, 1), Series("b", high, 2)]
    chart = stacked("c", "Title", begins(len(counts)), 60, series)
    assert chart.is_empty == (not any(low) and not any(high))
    assert all(0 <= one <= WIDTH for one in numbers(chart))
    stands_on: dict[str, str] = {}
    for shape in chart.areas:
        for x, bottom, top in re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)", shape.path):
            assert LEFT <= float(x) <= WIDTH
            assert 0 <= float(top) <= float(bottom) <= HEIGHT
            assert bottom == stands_on.get(x, f"{HEIGHT - BOTTOM:.1f}")
            stands_on[x] = top


def test_the_table_behind_a_chart_tells_the_same_latest_first() -> None:
    series = [Series("ok", [5, 0, 7], 1), Series("bad", [1, 0, 1234], 2)]
    chart = stacked("c", "Title", begins(3), 60, series)
    assert chart.columns == ["ok", "bad"]
    assert chart.rows == [("01 Mar 09:02", ["7", "1\u202f234"]), ("01 Mar 09:00", ["5", "1"])]
    assert chart.hovers[2].text == "01 Mar 09:02 to 09:03 UTC\nok: 7\nbad: 1\u202f234"
    assert chart.summary == "Title: 12 ok, 1\u202f235 bad"


def test_a_line_breaks_where_nothing_ran_and_a_lonely_point_is_seen() -> None:
    series = [Series("p50", [0.01, 0.02, None, 0.5, None], 1)]
    chart = percentiles("c", "Title", begins(5), 60, series)
    (line,) = chart.lines
    assert line.path.count("M") == 2
    assert line.path.count("h1") == 2
    assert [label.text for label in chart.y_labels] == ["10 ms", "100 ms", "1 s"]
    assert all(0 <= one <= WIDTH for one in numbers(chart))


@pytest.mark.parametrize(
    ("steps", "step_seconds", "expected"),
    [(60, 60, "09:10"), (24, 3600, "12:00"), (56, 10_800, "02 Mar")],
)
def test_times_at_the_axis_are_round_and_few(steps: int, step_seconds: int, expected: str) -> None:
    labels = time_labels(begins(steps, step_seconds), step_seconds)
    assert 3 <= len(labels) <= 7
    assert expected in {label.text for label in labels}
    assert all(label.moment and label.moment.endswith("Z") for label in labels)


def test_charts_of_nothing_say_so() -> None:
    nothing = [Series("a", [None, None], 1)]
    assert stacked("c", "Title", begins(2), 60, [Series("a", [0, 0], 1)]).is_empty
    assert percentiles("c", "Title", begins(2), 60, nothing).is_empty
    assert histogram("c", "Title", [(0.001, 0)]).is_empty
    assert stacked("c", "Title", [], 60, []).is_empty
