"""Requests about schedules and the reading of their answers, without I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import httpx

from finmind_client.calls import Call
from finmind_client.schedule_models import (
    Backfilled,
    NewSchedule,
    Overlap,
    Preview,
    Schedule,
    Tick,
    TickOutcome,
)


@dataclass(frozen=True, slots=True)
class SchedulePage:
    """Some of the schedules, by name."""

    schedules: Sequence[Schedule]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class TickPage:
    """Some of the ticks, newest first."""

    ticks: Sequence[Tick]
    next_cursor: str | None


def create(schedule: NewSchedule) -> Call[Schedule]:
    """Make a schedule; made twice, the second call finds the name taken."""
    return Call("POST", "/schedules", _schedule, body=schedule.body(), repeatable=False)


def page(
    *, job_type: str | None, paused: bool | None, cursor: str | None, limit: int
) -> Call[SchedulePage]:
    """One page of schedules."""

    def read(answer: httpx.Response) -> SchedulePage:
        document = answer.json()
        return SchedulePage(_schedules(answer), document["next_cursor"])

    params = _given(job_type=job_type, paused=paused, cursor=cursor, limit=limit)
    return Call("GET", "/schedules", read, params=params)


def get(name: str) -> Call[Schedule]:
    """Read a schedule."""
    return Call("GET", _path(name), _schedule)


def change(name: str, changes: Mapping[str, Any]) -> Call[Schedule]:
    """Change a schedule; what is left out stays."""
    return Call("PATCH", _path(name), _schedule, body=changes)


def delete(name: str, *, reason: str | None) -> Call[None]:
    """Delete a schedule."""
    return Call(
        "DELETE", _path(name), lambda _: None, params=_given(reason=reason), repeatable=False
    )


def set_paused(
    names: Sequence[str], verb: Literal["pause", "resume"], *, reason: str | None
) -> Call[Sequence[Schedule]]:
    """Pause or resume schedules, all or none."""
    body = {"names": list(names)} | _given(reason=reason)
    return Call("POST", f"/schedules/{verb}", _schedules, body=body)


def release(name: str, *, reason: str | None) -> Call[Schedule]:
    """Give a schedule back to its code."""
    return Call(
        "POST", _path(name, "release"), _schedule, body=_given(reason=reason), repeatable=False
    )


def run(name: str, *, reason: str | None) -> Call[int]:
    """Run a schedule now; the id of its job."""
    return Call(
        "POST",
        _path(name, "run"),
        lambda answer: int(answer.json()["job_id"]),
        body=_given(reason=reason),
        repeatable=False,
    )


def backfill(
    name: str, begin: datetime, until: datetime, *, overlap: Overlap | None, reason: str | None
) -> Call[Backfilled]:
    """Run the ticks of a time that has passed."""

    def read(answer: httpx.Response) -> Backfilled:
        done = answer.json()
        names = ("ticks", "enqueued", "skipped", "first_job_id", "last_job_id")
        return Backfilled(*(done[name] for name in names))

    body = {"from": _moment("begin", begin), "until": _moment("until", until)}
    body |= _given(overlap=overlap, reason=reason)
    return Call("POST", _path(name, "backfill"), read, body=body, repeatable=False)


def preview(
    *,
    cron: str | None,
    every_seconds: float | None,
    zone: str | None,
    after: datetime | None,
    count: int,
) -> Call[Preview]:
    """The ticks of a rule."""

    def read(answer: httpx.Response) -> Preview:
        found = answer.json()
        ticks = tuple(datetime.fromisoformat(one["local"]) for one in found["ticks"])
        return Preview(ticks, found["clock_change"])

    body = _given(cron=cron, every_seconds=every_seconds, zone=zone, count=count)
    if after is not None:
        body["after"] = _moment("after", after)
    return Call("POST", "/schedules/preview", read, body=body)


def ticks(
    name: str, *, outcome: TickOutcome | None, cursor: str | None, limit: int
) -> Call[TickPage]:
    """One page of a schedule's ledger."""

    def read(answer: httpx.Response) -> TickPage:
        document = answer.json()
        return TickPage(tuple(map(Tick.of, document["ticks"])), document["next_cursor"])

    params = _given(outcome=outcome, cursor=cursor, limit=limit)
    return Call("GET", _path(name, "ticks"), read, params=params)


def _schedule(answer: httpx.Response) -> Schedule:
    return Schedule.of(answer.json())


def _schedules(answer: httpx.Response) -> Sequence[Schedule]:
    return tuple(map(Schedule.of, answer.json()["schedules"]))


def _path(name: str, verb: str = "") -> str:
    return f"/schedules/{quote(name, safe='')}" + (f"/{verb}" if verb else "")


def _moment(name: str, moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError(
            f"{name} {moment.isoformat()} has no time zone: use datetime.now(UTC), or give it one"
        )
    return moment.isoformat()


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
