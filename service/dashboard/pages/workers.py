"""The workers: which live, which were lost, what each runs and for how long."""

from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response

from service.api.session import AppSettings, Session
from service.dashboard.access import Viewer
from service.dashboard.rendering import render
from service.dashboard.route import page_router
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.workers import MAX_WORKERS, WorkerState, WorkerStatus, list_workers

router = page_router()


@dataclass(frozen=True, slots=True)
class Group:
    """The workers that stand alike."""

    title: str
    words: str
    workers: list[WorkerState]


@dataclass(frozen=True, slots=True)
class Workers:
    """What `workers.html` shows."""

    live: list[WorkerState]
    gone: list[Group]
    """Those of the last day that are there no longer."""
    complete: bool
    limit: int = MAX_WORKERS

    @property
    def slots(self) -> int:
        """How many jobs the live ones may run at once."""
        return sum(worker.slots for worker in self.live)

    @property
    def used(self) -> int:
        """How many they run."""
        return sum(worker.used for worker in self.live)

    @property
    def versions(self) -> list[str]:
        """The versions of the service that run; workers over HTTP have their own."""
        processes = [worker for worker in self.live if worker.owner is None]
        return sorted({worker.version or "unknown" for worker in processes})


@router.get("/workers")
async def show_workers(
    request: Request, _: Viewer, session: Session, settings: AppSettings
) -> Response:
    """The workers of the last day."""
    found = await list_workers(session, alive_seconds=alive_seconds(settings))
    by_status: dict[WorkerStatus, list[WorkerState]] = {status: [] for status in WorkerStatus}
    for worker in found.workers:
        by_status[worker.status].append(worker)
    groups = [
        Group(
            "Lost",
            "They sent no heartbeat and did not say that they stop: crashed, killed, or cut off. "
            "Their jobs run again elsewhere once their leases end.",
            by_status[WorkerStatus.LOST],
        ),
        Group("Stopped", "They stopped in good order.", by_status[WorkerStatus.STOPPED]),
    ]
    page = Workers(
        live=by_status[WorkerStatus.LIVE],
        gone=[group for group in groups if group.workers],
        complete=found.complete,
    )
    return render(request, "workers.html", page=page)
