"""The table of README: how many times as fast as each peer ours was, all from one run."""

import statistics
from dataclasses import dataclass

from benchmarks.peers.installation import versions
from benchmarks.scenario import Figure, Report

PEERS = {
    "graphile-worker": "graphile-worker",
    "pg-boss": "pg-boss",
    "pgqueuer": "PgQueuer",
    "procrastinate": "procrastinate",
}
"""By what a peer is called here, how it writes its own name."""

KEPT = "rows kept per job drained"


@dataclass(frozen=True, slots=True)
class Column:
    """One comparison: its title, and the figure that it shows."""

    title: str
    figure: str

    def cell(self, figures: dict[str, Figure], peer: str) -> str:
        """Median and spread over the runs: above 1 ours is faster, in waits as in rates."""
        ratio = figures.get(f"{self.figure}, ours / {peer}")
        if ratio is None:
            return ""  # it failed there
        times = [1 / run if ratio.better == "lower" else run for run in ratio.runs]
        spread = f" ({_times(min(times))}–{_times(max(times))})" if len(times) > 1 else ""
        return _times(statistics.median(times)) + spread


COLUMNS = (
    Column("drain", "drain"),
    Column("bulk enqueue", "bulk enqueue"),
    Column("enqueue to start, p50", "enqueue to start at 100/s p50"),
    Column("p99", "enqueue to start at 100/s p99"),
)


def ratios(report: Report) -> str:
    """The table, of the peers and the figures that were measured."""
    figures = {figure.name: figure for figure in report.figures}
    columns = [column for column in COLUMNS if f"{column.figure}, ours" in figures]
    peers = [peer for peer in PEERS if f"{columns[0].figure}, ours / {peer}" in figures]
    rows = [["times as fast as", *(column.title for column in columns), "finished jobs"]]
    rows.append(["---"] * len(rows[0]))
    for peer in peers:
        kept = figures.get(f"{KEPT}, {peer}")
        fate = "" if kept is None else "kept" if kept.median >= 1 else "deleted"
        cells = [column.cell(figures, peer) for column in columns]
        rows.append([f"{PEERS[peer]} {versions()[peer]}", *cells, fate])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _times(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
