"""Charts: from points to a drawing that `charts.html` writes as SVG, with a table behind it.

Everything is computed here, in the units of the drawing; the template only writes it down. Colours are
classes (`series-1` and so on), so that a theme changes them and the Content-Security-Policy allows no style.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from service.dashboard.formats import duration, number

WIDTH: Final = 540
HEIGHT: Final = 200
LEFT: Final = 66
RIGHT: Final = 8
TOP: Final = 10
BOTTOM: Final = 30
MAX_X_LABELS: Final = 7
MAX_Y_LABELS: Final = 4

DURATION_TICKS: Final = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21_600.0, 86_400.0)
"""Seconds at which an axis of durations may have a line."""

_PLOT_WIDTH: Final = WIDTH - LEFT - RIGHT
_PLOT_HEIGHT: Final = HEIGHT - TOP - BOTTOM


@dataclass(frozen=True, slots=True)
class Series:
    """One quantity over time; None where there is nothing to tell."""

    label: str
    values: Sequence[float | None]
    colour: int
    """Number of its class in the style sheet, from 1."""


@dataclass(frozen=True, slots=True)
class Label:
    """A word at an axis, and where; `moment` is when it stands for, so that a script can say it locally."""

    position: float
    text: str
    moment: str | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What is drawn of a series: the data of an SVG path."""

    colour: int
    path: str


@dataclass(frozen=True, slots=True)
class Hover:
    """A strip of the chart that tells its values to a pointer."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, and the same as a table."""

    id: str
    title: str
    summary: str
    """What it shows in one sentence: its name for a screen reader."""
    is_empty: bool
    areas: list[Shape]
    lines: list[Shape]
    hovers: list[Hover]
    x_labels: list[Label]
    y_labels: list[Label]
    legend: list[tuple[int, str]]
    columns: list[str]
    row_title: str
    rows: list[tuple[str, list[str]]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def stacked(
    chart_id: str,
    title: str,
    begins: Sequence[datetime],
    step_seconds: int,
    series: Sequence[Series],
) -> Chart:
    """Counts in each step, one above the other; the first series stands at the bottom."""
    columns = [[one.values[place] or 0 for one in series] for place in range(len(begins))]
    highest = max(map(sum, columns), default=0)
    ticks = count_ticks(highest)
    top = max(ticks[-1], 1)
    width = _PLOT_WIDTH / max(1, len(begins))
    gap = min(1.0, width * 0.15)
    paths: list[list[str]] = [[] for _ in series]
    for place, column in enumerate(columns):
        below = 0.0
        for path, value in zip(paths, column, strict=True):
            if value:
                low, high = _y(below / top), _y((below + value) / top)
                x = LEFT + place * width + gap / 2
                path.append(f"M{x:.1f} {low:.1f}V{high:.1f}h{width - gap:.1f}V{low:.1f}z")
            below += value
    return Chart(
        id=chart_id,
        title=title,
        summary=_total_words(title, series),
        is_empty=not highest,
        areas=_shapes(series, ["".join(path) for path in paths]),
        lines=[],
        hovers=_hovers(begins, step_seconds, series, _count),
        x_labels=time_labels(begins, step_seconds),
        y_labels=[Label(_y(tick / top), number(tick)) for tick in ticks],
        legend=_legend(series),
        columns=[one.label for one in series],
        row_title="From (UTC)",
        rows=_rows(begins, series, _count),
    )


def percentiles(
    chart_id: str,
    title: str,
    begins: Sequence[datetime],
    step_seconds: int,
    series: Sequence[Series],
) -> Chart:
    """Durations in seconds in each step, on a logarithmic axis; lines break where nothing ran."""
    found = [value for one in series for value in one.values if value is not None]
    low, high, ticks = duration_axis(found)
    width = _PLOT_WIDTH / max(1, len(begins))

    def y_of(value: float) -> float:
        return _y(math.log(max(value, low) / low) / math.log(high / low))

    return Chart(
        id=chart_id,
        title=title,
        summary=_last_words(title, series),
        is_empty=not found,
        areas=[],
        lines=_shapes(series, [_line(one.values, width, y_of) for one in series]),
        hovers=_hovers(begins, step_seconds, series, duration),
        x_labels=time_labels(begins, step_seconds),
        y_labels=[Label(y_of(tick), duration(tick)) for tick in ticks],
        legend=_legend(series),
        columns=[one.label for one in series],
        row_title="From (UTC)",
        rows=_rows(begins, series, duration),
    )


def histogram(chart_id: str, title: str, bars: Sequence[tuple[float, int]]) -> Chart:
    """How many durations lie above the bound of the bar before and up to that of theirs, in seconds."""
    highest = max((count for _, count in bars), default=0)
    ticks = count_ticks(highest)
    top = max(ticks[-1], 1)
    width = _PLOT_WIDTH / max(1, len(bars))
    words = [duration(bound) for bound, _ in bars]
    path, hovers = [], []
    for place, (_, count) in enumerate(bars):
        x = LEFT + place * width
        hovers.append(Hover(round(x, 1), round(width, 1), f"up to {words[place]}: {number(count)}"))
        if count:
            low, high = _y(0), _y(count / top)
            path.append(f"M{x + 1:.1f} {low:.1f}V{high:.1f}h{width - 2:.1f}V{low:.1f}z")
    every = max(1, math.ceil(len(bars) / MAX_X_LABELS))
    return Chart(
        id=chart_id,
        title=title,
        summary=f"{title}: {number(sum(count for _, count in bars))} attempts in {len(bars)} classes",
        is_empty=not highest,
        areas=[Shape(1, "".join(path))],
        lines=[],
        hovers=hovers,
        x_labels=[
            Label(round(LEFT + (place + 0.5) * width, 1), words[place])
            for place in range(0, len(bars), every)
        ],
        y_labels=[Label(_y(tick / top), number(tick)) for tick in ticks],
        legend=[],
        columns=["Attempts"],
        row_title="Up to",
        rows=[(word, [number(count)]) for word, (_, count) in zip(words, bars, strict=True)],
    )


def count_ticks(highest: float) -> list[int]:
    """Round numbers from 0 to one that is not below `highest`: at most five of them."""
    if highest <= 0:
        return [0]
    size = 10 ** math.floor(math.log10(highest / MAX_Y_LABELS)) if highest > MAX_Y_LABELS else 1
    step = next(size * one for one in (1, 2, 5, 10) if size * one * MAX_Y_LABELS >= highest)
    step = max(1, math.ceil(step))
    return [step * place for place in range(math.ceil(highest / step) + 1)]


def duration_axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The lowest and highest seconds of an axis that holds these, and where it has lines."""
    if not values:
        return DURATION_TICKS[0], DURATION_TICKS[1], [DURATION_TICKS[0]]
    low = max((tick for tick in DURATION_TICKS if tick <= min(values)), default=DURATION_TICKS[0])
    high = next((tick for tick in DURATION_TICKS if tick >= max(values)), max(values))
    if high <= low:
        high = next((tick for tick in DURATION_TICKS if tick > low), low * 10)
    return low, high, [tick for tick in DURATION_TICKS if low <= tick <= high]


def time_labels(begins: Sequence[datetime], step_seconds: int) -> list[Label]:
    """A few round times below the plot."""
    if not begins:
        return []
    width = _PLOT_WIDTH / len(begins)
    span = step_seconds * len(begins)
    every = next(
        (
            one
            for one in (600, 900, 3600, 10_800, 21_600, 43_200, 86_400)
            if span / one <= MAX_X_LABELS
        ),
        172_800,
    )
    labels = []
    for place, begin in enumerate(begins):
        if begin.timestamp() % every == 0:
            text = f"{begin:%d %b}" if every >= 86_400 else f"{begin:%H:%M}"
            labels.append(Label(round(LEFT + place * width, 1), text, _iso(begin)))
    return labels


def _y(share: float) -> float:
    return round(TOP + _PLOT_HEIGHT * (1 - min(max(share, 0.0), 1.0)), 1)


def _line(values: Sequence[float | None], width: float, y_of: Callable[[float], float]) -> str:
    path, before = [], None
    for place, value in enumerate(values):
        if value is not None:
            x, y = LEFT + (place + 0.5) * width, y_of(value)
            # A point without neighbours would not be seen: it is drawn as a short stroke.
            path.append(f"L{x:.1f} {y}" if before is not None else f"M{x - 1:.1f} {y}h1")
        before = value
    return "".join(path)


def _shapes(series: Sequence[Series], paths: Sequence[str]) -> list[Shape]:
    return [Shape(one.colour, path) for one, path in zip(series, paths, strict=True) if path]


def _legend(series: Sequence[Series]) -> list[tuple[int, str]]:
    return [(one.colour, one.label) for one in series]


def _hovers(
    begins: Sequence[datetime],
    step_seconds: int,
    series: Sequence[Series],
    write: Callable[[float | None], str],
) -> list[Hover]:
    width = _PLOT_WIDTH / max(1, len(begins))
    hovers = []
    for place, begin in enumerate(begins):
        end = begin + timedelta(seconds=step_seconds)
        lines = [f"{begin:%d %b %H:%M} to {end:%H:%M} UTC"]
        lines += [f"{one.label}: {write(one.values[place])}" for one in series]
        hovers.append(Hover(round(LEFT + place * width, 1), round(width, 1), "\n".join(lines)))
    return hovers


def _rows(
    begins: Sequence[datetime], series: Sequence[Series], write: Callable[[float | None], str]
) -> list[tuple[str, list[str]]]:
    """The steps in which something is to tell, latest first."""
    return [
        (f"{begins[place]:%d %b %H:%M}", [write(one.values[place]) for one in series])
        for place in reversed(range(len(begins)))
        if any(one.values[place] for one in series)
    ]


def _total_words(title: str, series: Sequence[Series]) -> str:
    sums = (f"{number(int(sum(value or 0 for value in one.values)))} {one.label}" for one in series)
    return f"{title}: {', '.join(sums)}"


def _last_words(title: str, series: Sequence[Series]) -> str:
    lasts = (
        next((value for value in reversed(one.values) if value is not None), None) for one in series
    )
    words = (f"{one.label} {duration(last)}" for one, last in zip(series, lasts, strict=True))
    return f"{title}, lately: {', '.join(words)}"


def _count(value: float | None) -> str:
    return number(int(value or 0))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
