"""The service as it is, in a process that records what it claims and what it settles.

`python -m tests.chaos.probe serve` is `python -m service serve`, with the engine's calls to the
database wrapped: each is recorded before it is sent and again with what the database answered. So
the ledger holds what the service was answered; the table shows what became of it.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from service import cli
from service.db.connection import Link
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.outcomes import Outcome
from tests.chaos.ledger import LEDGER_VARIABLE, Event, Pen
from tests.jobs.statements import HOME, without

UNFENCED_VARIABLE: Final = "PROBE_UNFENCED"
"""If it is set, a bug is planted that trials must find: settles do not check the lease token."""
FENCE: Final = "AND b.lease_token = r.token"
HEARTBEAT: Final = "heartbeat"
PROGRESS: Final = "progress"


class Probe:
    """Stands between the engine and its statements, and records each call and its answer."""

    def __init__(self, pen: Pen) -> None:
        self._pen = pen
        self._words: dict[Lease, str] = {}
        """What was last tried under a lease: an answer that was lost is asked for later."""

    def watch(self) -> None:
        """Wrap the engine's calls, for the rest of this process."""
        self._watch_claim(store.claim, "take")
        self._watch_claim(store.claim_limited, "take")
        self._watch_claim(store.admission, "claim_held")
        self._watch_settle("finish")
        self._watch_settle("requeue")
        self._watch_settled_before()
        self._watch_extend()
        self._watch_progress()

    def _note(self, event: Event, leases: Iterable[Lease], word: str | None = None) -> None:
        self._pen.write(
            self._pen.made(event, job_id, 0, token, detail=word or self._words[job_id, token])
            for job_id, token in leases
        )

    def _watch_claim(self, module: ModuleType, name: str) -> None:
        claim = getattr(module, name)

        async def watched(*args: Any, **options: Any) -> list[ClaimedJob]:
            jobs: list[ClaimedJob] = await claim(*args, **options)
            self._pen.write(
                self._pen.made(Event.CLAIMED, job.id, job.attempt, job.lease_token)
                for job in jobs
                if job.held_for is None
            )
            return jobs

        setattr(module, name, watched)

    def _watch_settle(self, name: str) -> None:
        write = getattr(store.settle, name)

        async def watched(
            link: Link, settled: Sequence[tuple[ClaimedJob, Outcome]], /, **options: Any
        ) -> set[Lease]:
            leases = [job.lease for job, _ in settled]
            self._words |= {job.lease: outcome.event for job, outcome in settled}
            self._note(Event.TRYING, leases)
            lost: set[Lease] = await write(link, settled, **options)
            self._note(Event.ACCEPTED, (lease for lease in leases if lease not in lost))
            self._note(Event.REFUSED, lost)
            for lease in leases:
                if lease not in lost:  # of the others the answer may be asked for once more
                    self._words.pop(lease, None)
            return lost

        setattr(store.settle, name, watched)

    def _watch_settled_before(self) -> None:
        settled_before = store.settle.settled_before

        async def watched(link: Link, leases: Iterable[Lease]) -> set[Lease]:
            found = await settled_before(link, leases)
            self._note(Event.ACCEPTED, found)
            return found

        store.settle.settled_before = watched

    def _watch_extend(self) -> None:
        extend = store.leases.extend

        async def watched(
            link: Link, leases: Iterable[Lease], *, lease_seconds: float
        ) -> dict[Lease, bool]:
            asked = list(leases)
            self._note(Event.TRYING, asked, HEARTBEAT)
            held = await extend(link, asked, lease_seconds=lease_seconds)
            self._note(Event.ACCEPTED, held, HEARTBEAT)
            self._note(Event.REFUSED, set(asked) - held.keys(), HEARTBEAT)
            return held

        store.leases.extend = watched

    def _watch_progress(self) -> None:
        write_progress = store.progress.write

        async def watched(link: Link, progress: Mapping[Lease, str]) -> set[Lease]:
            self._note(Event.TRYING, list(progress), PROGRESS)
            held = await write_progress(link, progress)
            self._note(Event.ACCEPTED, held, PROGRESS)
            self._note(Event.REFUSED, progress.keys() - held, PROGRESS)
            return held

        store.progress.write = watched


def unfence() -> None:
    """Let settles in this process succeed under any lease token."""
    for name in ("FINISH", "REQUEUE"):
        setattr(HOME[name], name, without(FENCE, name))


def main() -> int:
    """Run a command of the service under the probe."""
    if UNFENCED_VARIABLE in os.environ:
        unfence()
    Probe(Pen(Path(os.environ[LEDGER_VARIABLE]))).watch()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
