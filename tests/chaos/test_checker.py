"""The checker sees each kind of wrong, and calls nothing wrong that is right."""

from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import Row, Verdict, check
from tests.chaos.ledger import Event, Ledger, Note, Pen

KILLED = 100
"""The process that faults befall."""
OTHER = 200


class Scenario:
    """Writes a ledger, a tick of the clock a line."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self._now = 0.0

    def note(
        self, event: str, job: int = 0, token: int = 0, pid: int = KILLED, **more: Any
    ) -> None:
        self._now += 1.0
        detail = str(more.get("detail", "-"))
        self.notes.append(Note(event, job, 1, token, pid, self._now, detail))

    def enqueued(self, job: int) -> None:
        """Job `job` was offered as number `job` and acknowledged."""
        self.note(Event.OFFERED, detail=job)
        self.note(Event.ACKNOWLEDGED, job, detail=job)

    def ran(self, job: int, token: int, pid: int = KILLED, *, end: str = "end") -> None:
        self.note(Event.CLAIMED, job, token, pid)
        self.note(Event.START, job, token, pid)
        if end:
            self.note(end, job, token, pid)

    def settled(self, job: int, token: int, what: str = "succeeded", pid: int = KILLED) -> None:
        self.note(Event.TRYING, job, token, pid, detail=what)
        self.note(Event.ACCEPTED, job, token, pid, detail=what)

    def fault(self, kind: str = "kill", pid: int = KILLED) -> None:
        self.note(Event.FAULT, pid=pid, detail=kind)
        self.note(Event.OVER, pid=pid, detail=kind)


def done(job: int, token: int) -> Row:
    """A row that stands as a success of the run under `token`."""
    return Row(job, job, "SUCCESS", token, {"number": job, "lease_token": token})


@pytest.fixture
def scenario() -> Scenario:
    """A ledger in which job 1 is enqueued."""
    scenario = Scenario()
    scenario.enqueued(1)
    return scenario


def only(verdict: Verdict, kind: str) -> None:
    """The verdict finds this kind of wrong, and no other."""
    found = {
        name
        for name in ("lost", "lost_results", "unexpected", "unexplained", "stale_accepted")
        if getattr(verdict, name)
    }
    assert found == {kind}, verdict.flaws


def test_a_run_without_a_flaw_has_none(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.settled(1, 5)
    verdict = check(scenario.notes, [done(1, 5)])
    assert verdict.flaws == []
    assert (verdict.offered, verdict.acknowledged, verdict.runs, verdict.duplicated) == (1, 1, 1, 0)


def test_an_acknowledged_job_without_a_row_is_lost(scenario: Scenario) -> None:
    only(check(scenario.notes, []), "lost")


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_job_that_has_not_ended_is_lost(scenario: Scenario, status: str) -> None:
    only(check(scenario.notes, [Row(1, 1, status, None)]), "lost")


def test_an_acknowledged_job_that_stands_under_another_id_is_lost(scenario: Scenario) -> None:
    scenario.ran(9, 5)
    only(check(scenario.notes, [Row(9, 1, *done(1, 5)[2:])]), "lost")


def test_an_offer_without_an_answer_is_indeterminate(
    scenario: Scenario,
) -> None:
    scenario.ran(1, 5)
    scenario.note(Event.OFFERED, detail=2)
    without = check(scenario.notes, [done(1, 5)])
    scenario.ran(2, 6)
    with_it = check(scenario.notes, [done(1, 5), done(2, 6)])
    assert (without.flaws, without.indeterminate) == ([], 1)
    assert (with_it.flaws, with_it.indeterminate) == ([], 1)


def test_an_acknowledgment_that_names_no_job_is_met_by_its_number() -> None:
    scenario = Scenario()
    scenario.note(Event.OFFERED, detail=7)
    scenario.note(Event.ACKNOWLEDGED, detail=7)
    only(check(scenario.notes, []), "lost")
    scenario.ran(3, 5)
    row = Row(3, 7, "SUCCESS", 5, {"number": 7, "lease_token": 5})
    assert check(scenario.notes, [row]).flaws == []


def test_a_row_that_nobody_enqueued_is_unexpected(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.ran(2, 6)
    only(check(scenario.notes, [done(1, 5), done(2, 6)]), "unexpected")


def test_two_rows_of_one_offer_are_unexpected(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.ran(2, 6)
    second = Row(2, 1, "SUCCESS", 6, {"number": 1, "lease_token": 6})
    only(check(scenario.notes, [done(1, 5), second]), "unexpected")


def test_a_run_of_a_job_that_stands_nowhere_is_unexpected(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.ran(2, 6)
    only(check(scenario.notes, [done(1, 5)]), "unexpected")


def test_an_end_that_is_not_allowed_is_unexpected(scenario: Scenario) -> None:
    scenario.ran(1, 5, end="fail")
    dead = Row(1, 1, "DEAD_LETTER", 5)
    only(check(scenario.notes, [dead]), "unexpected")
    assert check(scenario.notes, [dead], allowed=frozenset({"DEAD_LETTER"})).flaws == []


def test_two_runs_under_one_token_are_unexpected(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.fault()
    scenario.ran(1, 5)
    only(check(scenario.notes, [done(1, 5)]), "unexpected")


def test_a_run_after_the_recorded_end_is_unexpected(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.settled(1, 5)
    scenario.fault()
    scenario.note(Event.START, 1, 4)
    assert "ran after its end" in str(check(scenario.notes, [done(1, 5)]).unexpected)


def test_a_success_that_no_run_came_to_is_unexpected(scenario: Scenario) -> None:
    scenario.ran(1, 5, end="")
    only(check(scenario.notes, [done(1, 5)]), "unexpected")


def test_a_second_run_after_the_first_gave_the_job_back_is_no_duplicate(scenario: Scenario) -> None:
    scenario.ran(1, 5, end="fail")
    scenario.settled(1, 5, "retried")
    scenario.ran(1, 6)
    verdict = check(scenario.notes, [done(1, 6)])
    assert (verdict.flaws, verdict.duplicated, verdict.runs) == ([], 0, 2)


def test_a_run_before_the_answer_to_a_give_back_is_no_duplicate(
    scenario: Scenario,
) -> None:
    scenario.ran(1, 5, end="fail")
    scenario.note(Event.TRYING, 1, 5, detail="retried")
    scenario.ran(1, 6, OTHER)
    scenario.note(Event.ACCEPTED, 1, 5, detail="retried")
    # Sent before the job had a newer token, so nothing stale was accepted either.
    assert check(scenario.notes, [done(1, 6)]).flaws == []


def test_a_duplicate_that_a_fault_explains_is_counted_and_no_flaw(scenario: Scenario) -> None:
    scenario.ran(1, 5, end="")
    scenario.fault()
    scenario.ran(1, 6, OTHER)
    verdict = check(scenario.notes, [done(1, 6)])
    assert (verdict.flaws, verdict.duplicated, verdict.in_flight_at_faults) == ([], 1, 1)


def test_a_settled_job_is_not_in_flight_and_a_heartbeat_settles_nothing(
    scenario: Scenario,
) -> None:
    scenario.enqueued(2)
    for job in (1, 2):
        scenario.ran(job, 5)
    scenario.settled(1, 5)
    scenario.settled(2, 5, "heartbeat")
    scenario.fault()
    assert check(scenario.notes, [done(1, 5), done(2, 5)]).in_flight_at_faults == 1


def test_a_fault_into_all_processes_explains_too(scenario: Scenario) -> None:
    scenario.ran(1, 5, end="")
    scenario.fault("outage", pid=0)
    scenario.ran(1, 6, OTHER)
    assert check(scenario.notes, [done(1, 6)]).flaws == []


def test_a_duplicate_without_a_fault_is_unexplained(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.ran(1, 6, OTHER)
    only(check(scenario.notes, [done(1, 6)]), "unexplained")


def test_a_fault_of_another_process_explains_nothing(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.fault(pid=OTHER)
    scenario.ran(1, 6, OTHER)
    only(check(scenario.notes, [done(1, 6)]), "unexplained")


@pytest.mark.parametrize("before", [True, False])
def test_a_fault_before_the_first_run_or_after_the_second_explains_nothing(
    scenario: Scenario, before: bool
) -> None:
    if before:
        scenario.fault()
    scenario.ran(1, 5)
    scenario.ran(1, 6, OTHER)
    if not before:
        scenario.fault()
    only(check(scenario.notes, [done(1, 6)]), "unexplained")


def test_a_row_under_an_older_token_than_a_run_is_a_stale_settle(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.fault()
    scenario.ran(1, 6, OTHER)
    only(check(scenario.notes, [done(1, 5)]), "stale_accepted")


@pytest.mark.parametrize("what", ["retried", "released", "heartbeat", "progress"])
def test_whatever_is_accepted_under_an_old_token_is_stale(scenario: Scenario, what: str) -> None:
    scenario.ran(1, 5)
    scenario.fault("stop")
    scenario.ran(1, 6, OTHER)
    scenario.settled(1, 5, what)
    only(check(scenario.notes, [done(1, 6)]), "stale_accepted")


@pytest.mark.parametrize("what", ["succeeded", "heartbeat", "progress"])
def test_what_is_refused_under_an_old_token_is_counted(scenario: Scenario, what: str) -> None:
    scenario.ran(1, 5)
    scenario.fault("stop")
    scenario.ran(1, 6, OTHER)
    scenario.note(Event.TRYING, 1, 5, detail=what)
    scenario.note(Event.REFUSED, 1, 5, detail=what)
    verdict = check(scenario.notes, [done(1, 6)])
    assert (verdict.flaws, verdict.refused) == ([], {what: 1})


def test_an_accepted_success_that_does_not_stand_is_a_lost_result(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    scenario.settled(1, 5)
    row = Row(1, 1, "DEAD_LETTER", 5)
    verdict = check(scenario.notes, [row], allowed=frozenset({"SUCCESS", "DEAD_LETTER"}))
    only(verdict, "lost_results")


def test_a_success_without_the_result_of_its_run_is_a_lost_result(scenario: Scenario) -> None:
    scenario.ran(1, 5)
    nothing = Row(1, 1, "SUCCESS", 5, None)
    only(check(scenario.notes, [nothing]), "lost_results")
    assert check(scenario.notes, [nothing], results=False).flaws == []


def test_a_job_retried_by_hand_begins_anew(scenario: Scenario) -> None:
    scenario.ran(1, 5, end="fail")
    scenario.settled(1, 5, "dead_lettered")
    scenario.note(Event.RETRIED_BY_HAND, 1)
    scenario.ran(1, 6)
    scenario.settled(1, 6)
    assert check(scenario.notes, [done(1, 6)]).flaws == []


def test_an_end_under_a_token_from_before_a_retry_by_hand_is_stale(
    scenario: Scenario,
) -> None:
    scenario.ran(1, 5, end="")
    scenario.fault("stop")
    scenario.ran(1, 6, OTHER, end="fail")
    scenario.settled(1, 6, "dead_lettered", OTHER)
    scenario.note(Event.RETRIED_BY_HAND, 1)
    scenario.note(Event.END, 1, 5)
    scenario.settled(1, 5)
    verdict = check(scenario.notes, [done(1, 5)])
    assert verdict.stale_accepted


def test_a_report_counts_the_flaws_and_names_them(scenario: Scenario) -> None:
    told = check(scenario.notes, []).to_json()
    assert (told["lost"], told["unexpected"], len(told["flaws"])) == (1, 0, 1)


def test_a_ledger_gives_back_what_pens_wrote_and_no_torn_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.notes() == []
    first, second = Pen(ledger.path), Pen(ledger.path)
    first.note(Event.OFFERED, detail=3)
    second.note(Event.START, 4, attempt=2, lease_token=9, pid=77)
    with ledger.path.open("a") as file:
        file.write("end 4 2")
    assert [note.event for note in ledger.notes()] == ["offered", "start"]
    with ledger.path.open("a") as file:
        file.write(" 9 77 1.5 -\n")
    assert ledger.notes()[1:] == [
        ledger.of("start")[0],
        Note("end", 4, 2, 9, 77, 1.5),
    ]
    first.close()
    second.close()
