"""`python -m benchmarks.pictures RESULTS.json … FOLDER`: draw what the results hold as SVG.

Results are what `python -m benchmarks` and `python -m benchmarks.peers` wrote by `--json`. The same
results make the same bytes, whenever and wherever they are drawn.
"""

import argparse
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.held import FLOOR_P99 as HELD_FLOOR

OURS, FLOOR, QUIET, HOLD = "#0b6e99", "#c46210", "#6b7280", "#f3d9b1"
STYLE: Any = {
    "svg.hashsalt": "finmind-jobs",  # or the ids in the file are new each time
    "svg.fonttype": "none",  # text stays text: small, and to be found
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
}

POINT = re.compile(r'(<path d="M|M|L) ')
LONG_NUMBER = re.compile(r"\d+\.\d{3,}")

Results = dict[str, Any]
Rows = list[dict[str, float]]


def draw(results: Results, folder: Path) -> list[Path]:
    """The pictures that these results have the rows for."""
    series = {one["name"]: _rows(one) for one in results["series"]}
    pictures: list[tuple[str, Figure]] = []
    with mpl.rc_context(STYLE):
        if rows := series.get("offered: ours"):
            pictures.append(("throughput-p99", throughput(rows, series.get("offered: floor", []))))
        if rows := series.get("held transaction"):
            medians = {one["name"]: one["median"] for one in results["figures"]}
            pictures.append(("held-transaction", held(rows, floor=medians.get(HELD_FLOOR))))
        if bars := _peers(results["figures"]):
            pictures.append(("peers", peers(bars)))
        paths = []
        for name, figure in pictures:
            figure.supxlabel(_source(results), x=0.99, ha="right", size=7, color=QUIET)
            path = folder / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            path.write_text(_lean(path.read_text()))
            paths.append(path)
    return paths


def throughput(ours: Rows, floor: Rows) -> Figure:
    """What starts of what is offered, and how late one in a hundred jobs starts."""
    figure, (axes,) = _figure(1, height=4.0)
    for rows, colour, label in (
        (ours, OURS, "FinMind Jobs"),
        (floor, FLOOR, "floor: the same SQL from bare asyncpg"),
    ):
        by_share = defaultdict(list)
        for row in rows:
            by_share[row["share of capacity"]].append(row)
        points = [
            (_median(some, "started jobs/s"), _median(some, "p99 ms"), share)
            for share, some in sorted(by_share.items())
        ]
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            marker="o",
            color=colour,
            label=label,
        )
        for rate, wait, share in points:
            axes.annotate(f"{share:.0%}", (rate, wait), (4, 5), textcoords="offset points", size=8)
    _logarithmic(axes)
    axes.xaxis.set_major_formatter(_thousands)
    axes.set_xlim(left=0)
    axes.set_xlabel("jobs started per second (labels: share of the capacity offered)")
    axes.set_ylabel("p99 from intended send to start, ms")
    axes.set_title("Enqueue and run together, one worker process", loc="left")
    axes.legend(frameon=False, loc="best")
    return figure


def held(rows: Rows, *, floor: float | None) -> Figure:
    """Second by second: starts, how late, and what piles up meanwhile; the floor's p99 beside."""
    figure, (waits, rates, dead) = _figure(3, height=6.0)
    seconds = [row["second"] for row in rows]
    holding = [row["second"] for row in rows if row["held"]]
    for axes in (waits, rates, dead):
        if holding:
            axes.axvspan(min(holding) - 1, max(holding), color=HOLD, alpha=0.5, linewidth=0)
        axes.set_xlim(min(seconds), max(seconds))
    _line(waits, rows, "p99 ms", OURS)
    _line(waits, rows, "p50 ms", FLOOR)
    if floor is not None:
        label = "p99 of bare asyncpg, no hold"
        waits.axhline(floor, color=QUIET, linestyle="--", linewidth=1, label=label)
    _logarithmic(waits)
    waits.set_ylabel("enqueue to start, ms")
    waits.set_title("1,000 jobs/s while a transaction is held open (shaded)", loc="left", pad=22)
    _line(rates, rows, "started jobs/s", OURS)
    _line(rates, rows, "backlog", FLOOR)
    rates.set_ylim(bottom=0)
    rates.set_ylabel("jobs")
    _line(dead, rows, "dead rows", OURS)
    dead.set_ylim(bottom=0)
    dead.yaxis.set_major_formatter(_thousands)
    dead.set_ylabel("dead rows")
    dead.set_xlabel("seconds of load")
    for axes in (waits, rates, dead):
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.96), ncols=3, fontsize=8)
    return figure


def peers(bars: dict[str, dict[str, float]]) -> Figure:
    """Drain and bulk enqueue side by side."""
    figure, panels = _figure(len(bars), height=1.0 + 1.6 * len(bars), share_x=False)
    for axes, (what, rates) in zip(panels, bars.items(), strict=True):
        names = sorted(rates, key=lambda name: rates[name])
        colours = [OURS if name == "ours" else QUIET for name in names]
        labels = ["FinMind Jobs" if name == "ours" else name for name in names]
        drawn = axes.barh(labels, [rates[name] for name in names], color=colours)
        axes.bar_label(drawn, [f" {rates[name]:,.0f}" for name in names], size=8)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(_thousands)
        axes.set_title(f"{what}, jobs/s", loc="left")
    return figure


def _figure(panels: int, *, height: float, share_x: bool = True) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(8, height), layout="constrained")
    grid = figure.subplots(panels, 1, sharex=share_x, squeeze=False)
    return figure, [axes for (axes,) in grid]


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    axes.yaxis.set_major_formatter(_plain)
    axes.yaxis.set_minor_formatter(NullFormatter())


def _line(axes: Axes, rows: Rows, column: str, colour: str) -> None:
    values = [row[column] for row in rows]
    label = column.removesuffix(" ms")
    axes.plot([row["second"] for row in rows], values, color=colour, label=label, linewidth=1.1)


def _peers(figures: list[Results]) -> dict[str, dict[str, float]]:
    bars: dict[str, dict[str, float]] = {}
    for what in ("drain", "bulk enqueue"):
        rates = {
            figure["name"].removeprefix(f"{what}, "): figure["median"]
            for figure in figures
            if figure["name"].startswith(f"{what}, ") and figure["unit"] == "jobs/s"
        }
        if len(rates) > 1 and "ours" in rates:
            bars[what] = rates
    return bars


def _lean(svg: str) -> str:
    """Points to a hundredth, not to a millionth; no blanks at the ends of lines."""
    lines = (line.rstrip() for line in svg.splitlines())
    return "".join(
        f"{LONG_NUMBER.sub(_rounded, line) if POINT.match(line) else line}\n" for line in lines
    )


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"


def _rows(series: Results) -> Rows:
    return [dict(zip(series["columns"], row, strict=True)) for row in series["rows"]]


def _median(rows: Rows, column: str) -> float:
    return statistics.median(row[column] for row in rows)


def _source(results: Results) -> str:
    machine = results["machine"]
    return f"{machine['machine']}; commit {machine['commit']}; {machine['measured'][:10]}"


def _thousands(value: float, _position: float) -> str:
    return f"{value:,.0f}"


def _plain(value: float, _position: float) -> str:
    return f"{value:g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for result in arguments.results:
        for made in draw(json.loads(result.read_text()), arguments.folder):
            print(made)
