"""Compares a ledger with the table that the run left behind, and reports what is wrong.

`check` takes the records made outside the database, and the rows once everything has ended; it never
asks the service. It reports

- lost: acknowledged, but its row is missing or has not ended;
- lost result: a success accepted or recorded without the result that its handler returned;
- unexpected: a row or a run that nobody requested, or an end that is not allowed;
- duplicated: a run after another of the same job that had not given it back. Each needs a fault that
  hit the earlier run's process while it held the job; without one it is unexplained;
- stale settle accepted: something fenced by a token was accepted after the job had a newer token;
- indeterminate: enqueues that were offered and never answered: the job may exist or not.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from tests.chaos.ledger import Event, Note

LIVE: Final = frozenset({"PENDING", "RUNNING"})
GIVEN_BACK: Final = frozenset({"retried", "snoozed", "suspended", "released", "postponed"})
"""Settles after which another run is as it should be."""
ENDINGS: Final = {"succeeded": "SUCCESS", "failed": "FAILED", "dead_lettered": "DEAD_LETTER"}
"""Settles after which there is none, and the status that they leave."""
SETTLES: Final = GIVEN_BACK | ENDINGS.keys()
FOREVER: Final = float("inf")


class Row(NamedTuple):
    """One job as the table has it at the end."""

    job_id: int
    number: int | None
    """Of its payload: what the enqueue that made it was offered under."""
    status: str
    lease_token: int | None
    result: Any = None


class Finding(NamedTuple):
    """One thing that is wrong, and about which job (0: about none)."""

    job_id: int
    why: str


class Fault(NamedTuple):
    """What was injected: into which process (0: all), of which kind, and when."""

    pid: int
    kind: str
    begun: float
    over: float


@dataclass
class Verdict:
    """What a run amounts to; `flaws` must be empty."""

    lost: list[Finding] = field(default_factory=list)
    lost_results: list[Finding] = field(default_factory=list)
    unexpected: list[Finding] = field(default_factory=list)
    unexplained: list[Finding] = field(default_factory=list)
    stale_accepted: list[Finding] = field(default_factory=list)
    faults: int = 0
    offered: int = 0
    acknowledged: int = 0
    indeterminate: int = 0
    jobs: int = 0
    runs: int = 0
    duplicated: int = 0
    in_flight_at_faults: int = 0
    """Runs that a fault found begun and not known to be settled: no more can be duplicated."""
    refused: dict[str, int] = field(default_factory=dict)
    """What came under a lost lease and was not taken, by what it was."""

    @property
    def flaws(self) -> list[Finding]:
        """Everything that must not be."""
        return [
            *self.lost,
            *self.lost_results,
            *self.unexpected,
            *self.unexplained,
            *self.stale_accepted,
        ]

    def to_json(self) -> dict[str, Any]:
        """For a report: counts, and the findings themselves."""
        findings = {name: getattr(self, name) for name in _FLAWS}
        return (
            asdict(self)
            | {name: len(found) for name, found in findings.items()}
            | {"flaws": [f"job {job_id}: {why}" for job_id, why in self.flaws]}
        )


_FLAWS: Final = ("lost", "lost_results", "unexpected", "unexplained", "stale_accepted")


def check(
    notes: Sequence[Note],
    rows: Iterable[Row],
    *,
    allowed: frozenset[str] = frozenset({"SUCCESS"}),
    results: bool = True,
) -> Verdict:
    """The verdict on a run whose work has ended.

    Parameters:
        notes: the ledger, in order.
        rows: every job of the table.
        allowed: statuses that a job may have at the end.
        results: whether handlers return `{"number": …, "lease_token": …}`, so that a result shows
            which run it is of.
    """
    verdict = Verdict()
    table = {row.job_id: row for row in rows}
    verdict.jobs = len(table)
    _check_enqueues(notes, table, verdict)
    faults = faults_of(notes)
    verdict.faults = len(faults)
    histories: dict[int, list[Note]] = defaultdict(list)
    for note in notes:
        if note.job_id:
            histories[note.job_id].append(note)
    for job_id, row in table.items():
        if row.status in LIVE:
            verdict.lost.append(Finding(job_id, f"is {row.status} and nothing goes on"))
        elif row.status not in allowed:
            verdict.unexpected.append(Finding(job_id, f"ended as {row.status}"))
    for job_id, history in histories.items():
        _check_runs(job_id, history, [f for f in faults if history[0].at <= f.over], verdict)
        _check_fence(job_id, history, table.get(job_id), verdict)
    for row in table.values():
        _check_result(row, histories.get(row.job_id, []), verdict, results=results)
    return verdict


def faults_of(notes: Iterable[Note]) -> list[Fault]:
    """The injected faults; one that nobody called over lasts to the end."""
    faults: list[Fault] = []
    for note in notes:
        if note.event == Event.FAULT:
            faults.append(Fault(note.pid, note.detail, note.at, FOREVER))
        elif note.event == Event.OVER:
            for place in range(len(faults) - 1, -1, -1):
                fault = faults[place]
                if (fault.pid, fault.kind, fault.over) == (note.pid, note.detail, FOREVER):
                    faults[place] = fault._replace(over=note.at)
                    break
    return faults


def _check_enqueues(notes: Sequence[Note], table: dict[int, Row], verdict: Verdict) -> None:
    offered = {int(note.detail) for note in notes if note.event == Event.OFFERED}
    answered = {int(note.detail): note.job_id for note in notes if note.event == Event.ACKNOWLEDGED}
    verdict.offered = len(offered)
    verdict.acknowledged = len(answered)
    verdict.indeterminate = len(offered - answered.keys())
    standing: dict[int, int] = {}
    for row in table.values():
        if row.number is None or row.number not in offered:
            verdict.unexpected.append(Finding(row.job_id, "nobody enqueued it"))
        elif row.number in standing:
            verdict.unexpected.append(
                Finding(
                    row.job_id, f"{row.number} was offered once and has job {standing[row.number]}"
                )
            )
        else:
            standing[row.number] = row.job_id
    for number, job_id in answered.items():
        if number not in standing:
            verdict.lost.append(Finding(job_id, f"{number} was acknowledged and has no row"))
        elif job_id not in {0, standing[number]}:
            verdict.lost.append(
                Finding(job_id, f"{number} was acknowledged and stands as {standing[number]}")
            )
    known = table.keys() | set(answered.values())
    for job_id in {note.job_id for note in notes if note.event == Event.START} - known:
        verdict.unexpected.append(Finding(job_id, "ran and stands nowhere"))


def _check_runs(job_id: int, history: list[Note], faults: list[Fault], verdict: Verdict) -> None:
    """Each run but the first comes of a settle that gave the job back, a hand, or a fault."""
    begun: Note | None = None
    tokens: set[int] = set()
    ended = False
    for place, note in enumerate(history):
        if note.event == Event.RETRIED_BY_HAND:
            # The run that is under way, if any, is of a job that begins anew.
            begun, ended = None, False
        elif note.event == Event.ACCEPTED and note.detail in ENDINGS:
            ended = True
        elif note.event == Event.START:
            verdict.runs += 1
            if note.lease_token in tokens:
                verdict.unexpected.append(
                    Finding(job_id, f"ran twice under token {note.lease_token}")
                )
            tokens.add(note.lease_token)
            if ended:
                verdict.unexpected.append(Finding(job_id, "ran after its end was recorded"))
            if begun is not None and not _given_back(begun, history, place):
                verdict.duplicated += 1
                if not _explained(begun, note, faults):
                    verdict.unexplained.append(
                        Finding(
                            job_id,
                            f"ran under token {note.lease_token} in {note.pid} while token "
                            f"{begun.lease_token} in {begun.pid} had not given it back",
                        )
                    )
            begun = note
    verdict.in_flight_at_faults += sum(_in_flight(history, fault) for fault in faults)


def _given_back(begun: Note, history: list[Note], place: int) -> bool:
    """Whether the run's settle gave the job back, and was sent before the next run began.

    Its acceptance may be noted later: the database answers the one while another claims.
    """
    sent = any(
        note.event == Event.TRYING
        and note.lease_token == begun.lease_token
        and note.detail in GIVEN_BACK
        for note in history[:place]
    )
    return sent and any(
        note.event == Event.ACCEPTED
        and note.lease_token == begun.lease_token
        and note.detail in GIVEN_BACK
        for note in history
    )


def _explained(begun: Note, again: Note, faults: list[Fault]) -> bool:
    return any(
        fault.pid in {0, begun.pid} and fault.begun <= again.at and begun.at <= fault.over
        for fault in faults
    )


def _in_flight(history: list[Note], fault: Fault) -> int:
    """How many of the job's runs the fault found begun and not known to be settled."""
    open_runs: set[int] = set()
    for note in history:
        if note.at > fault.over:
            break
        if note.event == Event.START and fault.pid in {0, note.pid}:
            open_runs.add(note.lease_token)
        elif note.event == Event.ACCEPTED and note.detail in SETTLES and note.at < fault.begun:
            open_runs.discard(note.lease_token)
    return len(open_runs)


def _check_fence(job_id: int, history: list[Note], row: Row | None, verdict: Verdict) -> None:
    """Nothing is accepted under a token that was sent when the job had a newer one."""
    newest = 0
    newest_when_sent: dict[tuple[int, str], int] = {}
    for note in history:
        what = (note.lease_token, note.detail)
        match note.event:
            case Event.CLAIMED | Event.START:
                newest = max(newest, note.lease_token)
            case Event.TRYING:
                newest_when_sent[what] = newest
            case Event.ACCEPTED if newest_when_sent.get(what, 0) > note.lease_token:
                verdict.stale_accepted.append(
                    Finding(
                        job_id,
                        f"{note.detail} under token {note.lease_token} was accepted after token "
                        f"{newest_when_sent[what]}",
                    )
                )
            case Event.REFUSED:
                verdict.refused[note.detail] = verdict.refused.get(note.detail, 0) + 1
    if row is not None and row.lease_token is not None and row.lease_token < newest:
        verdict.stale_accepted.append(
            Finding(job_id, f"stands under token {row.lease_token}, ran under {newest}")
        )


def _check_result(row: Row, history: list[Note], verdict: Verdict, *, results: bool) -> None:
    """The row is as the last accepted end left it, with the result of that run."""
    by_hand = max(
        (place for place, note in enumerate(history) if note.event == Event.RETRIED_BY_HAND),
        default=-1,
    )
    for note in history[by_hand + 1 :]:
        if note.event != Event.ACCEPTED or note.detail not in ENDINGS:
            continue
        if (row.status, row.lease_token) != (ENDINGS[note.detail], note.lease_token):
            verdict.lost_results.append(
                Finding(
                    row.job_id,
                    f"{note.detail} under token {note.lease_token} was accepted; it stands as "
                    f"{row.status} under {row.lease_token}",
                )
            )
    if row.status != "SUCCESS":
        return
    if not any(note.event == Event.END and note.lease_token == row.lease_token for note in history):
        verdict.unexpected.append(
            Finding(row.job_id, f"succeeded under token {row.lease_token}, which no run ended")
        )
    expected = {"number": row.number, "lease_token": row.lease_token}
    if results and row.result != expected:
        verdict.lost_results.append(
            Finding(row.job_id, f"has the result {row.result!r} instead of {expected!r}")
        )
