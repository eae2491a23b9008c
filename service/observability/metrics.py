"""Every metric of the service, each with the line that docs/metrics.md is made from.

The engine calls `record_event`, `observe_run` and `observe_start_delay` tens of thousands of times
a second, so the children of labels are kept in plain dicts and histograms are plain lists that are
read when scraped. All of them are called from the event loop's thread only.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Gauge, disable_created_metrics

from service.observability.events import REASONS_BY_EVENT
from service.observability.histogram import FastHistogram
from service.observability.labels import LabelBound, known_channel, known_job_type, known_queue

# Else each counter has a second series, which nothing reads.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no type for it

RUN_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    1800.0, 3600.0, 14_400.0, 86_400.0,
)  # fmt: skip
"""Up to a day, the longest timeout that a job may have."""
DELAY_BUCKETS: Final = (
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0,
)  # fmt: skip
BATCH_BUCKETS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


# -- jobs -----------------------------------------------------------------------------------------
JOB_EVENTS: Final = Counter(
    "finmind_job_events_total",
    f"Events in the life of jobs: {', '.join(REASONS_BY_EVENT)}; `status` is `ok` or the reason.",
    ["event", "job_type", "status"],
)
PERMITS_REPAIRED: Final = Counter(
    "finmind_permits_repaired_total",
    "Counts of running jobs under a limit that did not agree with the jobs, and were set right. It stays 0 but for plain SQL and for upgrades from a version without limits.",
)
JOBS_CREATED: Final = Counter(
    "finmind_jobs_created_total",
    "Jobs that were created, over REST, from Python or by SQL in whatever process: the leader counts them from the table, some seconds late, and over 10,000 a round from a sample.",
    ["job_type"],
)
RUN_SECONDS: Final = FastHistogram(
    "finmind_job_run_seconds",
    "How long handlers ran.",
    label="job_type",
    buckets=RUN_BUCKETS,
)
START_DELAY_SECONDS: Final = FastHistogram(
    "finmind_job_start_delay_seconds",
    "How long jobs waited between being due and being started.",
    label="queue",
    buckets=DELAY_BUCKETS,
)
BATCH_JOBS: Final = FastHistogram(
    "finmind_job_batch_size",
    "Jobs moved by one statement of the engine: claim, settle, requeue.",
    label="operation",
    buckets=BATCH_BUCKETS,
)
CHUNK_JOBS: Final = FastHistogram(
    "finmind_chunk_jobs",
    "Jobs that handlers of chunks were called with at once.",
    label="job_type",
    buckets=BATCH_BUCKETS,
)

# -- queues: set by the maintenance leader only ---------------------------------------------------
QUEUE_DEPTH: Final = Gauge(
    "finmind_queue_depth",
    "Jobs that are due and not yet claimed; counted up to `COUNT_CAP` for each priority of the queue.",
    ["queue"],
)
QUEUE_OLDEST_DUE: Final = Gauge(
    "finmind_queue_oldest_due_seconds", "Age of the oldest due job that waits.", ["queue"]
)
WAITING_FOR_WORKER: Final = Gauge(
    "finmind_jobs_waiting_for_worker",
    "Due jobs whose type no worker serves now, and one did lately; of each queue and priority the first 2000 are counted.",
    ["job_type"],
)
JOBS_HELD: Final = Gauge(
    "finmind_jobs_held",
    "Jobs that wait for a limit on running jobs (`concurrency`), a rate (`rate_limit`), a target that keeps failing (`breaker`) or other jobs (`dependencies`); counted up to `COUNT_CAP`.",
    ["waiting_for"],
)
QUEUE_RUNNING: Final = Gauge("finmind_queue_running", "Jobs that are running.", ["queue"])
QUEUE_MAX_RUNNING: Final = Gauge(
    "finmind_queue_max_running",
    "Jobs of the queue that may run at once, over all processes; of the first 500 queues with such a limit, by name.",
    ["queue"],
)
QUEUE_PERMITS: Final = Gauge(
    "finmind_queue_permits_used",
    "Jobs that run under that limit.",
    ["queue"],
)
QUEUE_PAUSED: Final = Gauge(
    "finmind_queue_paused", "1 for each queue that an operator paused.", ["queue"]
)

# -- what ended in the last five minutes: set by the maintenance leader only ----------------------
FAILURE_SHARE: Final = Gauge(
    "finmind_failure_share",
    "Attempts that failed among all that ended in the last five minutes, from 0 to 1. NaN: none ended, or another process leads.",
)
FAILURE_SHARE.set(math.nan)
RECENT_ATTEMPTS: Final = Gauge(
    "finmind_recent_attempts",
    "Attempts that ended in the last five minutes: `succeeded`, `retried`, `dead_lettered`, `failed`; and jobs that were `cancelled`. Shown by the leader alone.",
    ["outcome"],
)
RECENT_START_DELAY: Final = Gauge(
    "finmind_start_delay_seconds",
    "How long attempts of the last five minutes waited after they were due: quantiles `0.5`, `0.95`, `0.99`, off by less than a factor of 1.26. Shown by the leader alone.",
    ["quantile"],
)
RECENT_RUN_TIME: Final = Gauge(
    "finmind_run_time_seconds",
    "How long handlers ran in the last five minutes, by the same quantiles. Shown by the leader alone.",
    ["quantile"],
)

# -- worker ---------------------------------------------------------------------------------------
WORKER_UP: Final = Gauge("finmind_worker_up", "1 while this process claims jobs.")
WORKER_LEADER: Final = Gauge(
    "finmind_worker_leader", "1 while this process is the maintenance leader."
)
WORKER_SLOTS: Final = Gauge("finmind_worker_slots", "Jobs that this process may run at once.")
WORKER_SLOTS_USED: Final = Gauge("finmind_worker_slots_used", "Jobs that this process runs now.")
WORKER_RESTARTS: Final = Counter(
    "finmind_worker_restarts_total",
    "Times that a loop of the worker failed and was started again.",
    ["loop"],
)
DEAD_LETTER_GROUPS: Final = Gauge(
    "finmind_dead_letter_groups",
    "Causes that have dead letters, by state: `unresolved`, `resolved`, `ignored`. Shown by the leader alone.",
    ["state"],
)
JOB_LOG_LINES: Final = Counter(
    "finmind_job_log_lines_total",
    "Lines that handlers logged by `ctx.log`: `written`; `dropped`, since the database was away or too slow; `refused` by it.",
    ["outcome"],
)
REMOTE_CLAIMS_WAITING: Final = Gauge(
    "finmind_remote_claims_waiting", "Claims over HTTP that wait for jobs in this process."
)
REMOTE_LINES: Final = Gauge(
    "finmind_remote_lines",
    "Sets of job types and queues that claims over HTTP ask this process for: each polls once a second at most.",
)
REMOTE_ANSWERS: Final = Counter(
    "finmind_remote_answers_total",
    "Leases of workers over HTTP, by call and what was answered: `recorded`, `repeated`, `lease_lost`; of heartbeats `held`, `cancel`, `cancelled`, `timed_out`, `lease_lost`.",
    ["call", "answer"],
)
HANDLERS_STUCK: Final = Gauge(
    "finmind_handlers_stuck",
    "Handlers that were cancelled and still run: they hold a slot or a thread.",
)
WORKER_PROCESSES: Final = Gauge(
    "finmind_worker_processes",
    "Worker processes that run under this supervisor (`worker --processes`); the number that should run while all is well.",
)
WORKER_PROCESS_RESTARTS: Final = Counter(
    "finmind_worker_process_restarts_total",
    "Times that a supervisor started a worker process again, since it had died; `worker` is its number.",
    ["worker"],
)
HANDLER_PROCESSES: Final = Gauge(
    "finmind_handler_processes",
    'Processes of this worker that run handlers with `executor="process"`, idle ones as well.',
)
HANDLER_PROCESSES_ENDED: Final = Counter(
    "finmind_handler_processes_ended_total",
    "Such processes that ended: `died` (of a crash, or for want of memory), `killed` (since the handler was stopped), `retired` (after `HANDLER_PROCESS_JOBS`, or with the worker).",
    ["why"],
)
ENCRYPTED_PAYLOADS: Final = Counter(
    "finmind_encrypted_payloads_total",
    "Payloads at the start of an attempt: `opened` (decrypted), `key_missing` (by a key that this worker lacks; the attempt failed), `altered` (it does not belong to its job, which is FAILED), `not_encrypted` (readable, although its handler asks for encryption).",
    ["outcome"],
)
DATABASE_ERRORS_TOTAL: Final = Counter(
    "finmind_database_errors_total",
    "Statements or connections that failed, by what they were for.",
    ["operation"],
)

# -- reminders, process, credentials --------------------------------------------------------------
REMINDER_EVENTS: Final = Counter(
    "finmind_reminder_events_total",
    "Events in the life of reminders: created, enqueued, sent, retried, failed, cancelled; `status` is `ok` or the reason.",
    ["event", "channel", "status"],
)
TARGET_REQUESTS: Final = Counter(
    "finmind_target_requests_total",
    "Requests of `http.request` jobs: `succeeded`, `deferred` (an answer that is retried), `unreachable` (no answer), `rejected` (an answer that ends the job), `refused` (the target may not be called).",
    ["outcome"],
)
TARGET_BREAKERS: Final = Gauge(
    "finmind_targets_open",
    "Targets of `http.request` jobs whose breakers are open, as a process that sends such jobs read them last.",
)
OPERATION_JOBS: Final = Counter(
    "finmind_operation_jobs_total",
    "Jobs that operations on many jobs have met, by action: `changed` or `skipped`.",
    ["action", "outcome"],
)
OPERATION_ENDS: Final = Counter(
    "finmind_operation_ends_total",
    "Operations on many jobs that came to an end here: `done`, or `stopped` by their canary.",
    ["state"],
)
SCHEDULE_TICKS: Final = Counter(
    "finmind_schedule_ticks_total",
    "Ticks of schedules that this process decided: `fired`, `skipped`, `missed`, `backfilled`.",
    ["outcome"],
)
for _outcome in ("fired", "skipped", "missed", "backfilled"):
    SCHEDULE_TICKS.labels(_outcome)
SCHEDULE_RUNS: Final = Counter(
    "finmind_schedule_runs_total",
    "Runs of schedules whose end this process noted, by status: `success`, `dead_letter`, `failed`, `cancelled`; `gone`: the job was deleted.",
    ["status"],
)
for _status in ("success", "dead_letter", "failed", "cancelled", "gone"):
    SCHEDULE_RUNS.labels(_status)
SCHEDULE_DELAY_SECONDS: Final = FastHistogram(
    "finmind_schedule_delay_seconds",
    "How long after a schedule was due, jitter included, its job was enqueued.",
    label="job_type",
    buckets=DELAY_BUCKETS,
)
LOG_LINES_DROPPED: Final = Counter(
    "finmind_log_lines_dropped_total",
    "Log lines that were dropped, since nobody read the log or its disk was full.",
)
EVENT_LOOP_LAG: Final = Gauge(
    "finmind_event_loop_lag_seconds", "Longest stall of the event loop in the last 10 seconds."
)
AUTH_FAILURES: Final = Counter(
    "finmind_auth_failures_total",
    "Requests refused for their credential: `missing`, `refused`, and of those `limited`, answered 429 since too many from their address were refused before; `other_site`: a form of the dashboard that did not come from one of its pages.",
    ["reason"],
)
DASHBOARD_STREAMS: Final = Gauge(
    "finmind_dashboard_streams", "Pages of the dashboard that this process keeps live."
)
DASHBOARD_STREAMS_REFUSED: Final = Counter(
    "finmind_dashboard_streams_refused_total",
    "Pages that were not kept live, beyond DASHBOARD_MAX_STREAMS or five of a session: they look "
    "every few seconds.",
)
CALLBACKS: Final = Counter(
    "finmind_callbacks_total",
    "Callbacks of jobs that ended: `enqueued`, as jobs of the type `http.request`; `refused`, since no such job could be stored.",
    ["outcome"],
)
for _outcome in ("enqueued", "refused"):
    CALLBACKS.labels(_outcome)
FOLLOWERS: Final = Gauge(
    "finmind_followers",
    "Requests that wait here for the end of a job, or read its events.",
)
FOLLOWERS_REFUSED: Final = Counter(
    "finmind_followers_refused_total",
    "Such requests that were answered 503: `process`, beyond MAX_FOLLOWERS; `caller`, beyond MAX_FOLLOWERS_PER_CALLER; `stopping`, the process stops.",
    ["reason"],
)
for _reason in ("process", "caller", "stopping"):
    FOLLOWERS_REFUSED.labels(_reason)
AUDIT_UNRECORDED: Final = Counter(
    "finmind_audit_refusals_unrecorded_total",
    "Answers 403 that left no entry in the audit log: `failed`, the database did not take it; `limited`, this process had written a hundred within a minute.",
    ["reason"],
)
for _reason in ("failed", "limited"):
    AUDIT_UNRECORDED.labels(_reason)
QUOTA_REFUSALS: Final = Counter(
    "finmind_quota_refusals_total",
    "Requests refused since their caller had used up a quota: `requests`, `live_jobs`, `new_names`, `reminders`.",
    ["quota"],
)
for _quota in ("requests", "live_jobs", "new_names", "reminders"):
    QUOTA_REFUSALS.labels(_quota)
JWKS_FETCHES: Final = Counter(
    "finmind_jwks_fetches_total", "Fetches of the JWKS: `ok` or `failed`.", ["outcome"]
)

_event_children: dict[tuple[str, str, str], Counter] = {}


def record_event(event: str, job_type: str, reason: str = "ok", count: int = 1) -> None:
    """Count `count` events of one job type; `REASONS_BY_EVENT` lists events and reasons."""
    child = _event_children.get((event, job_type, reason))
    if child is None:
        known = known_job_type(job_type)
        child = JOB_EVENTS.labels(event, known, reason)
        if known == job_type:  # the others are without bound
            _event_children[(event, job_type, reason)] = child
    child.inc(count)


def expect_job_types(job_types: Iterable[str]) -> None:
    """Always give these types labels, and show each of their events from 0 on.

    For Prometheus a series that first appears at 60 has not increased: the first burst of failures would
    trigger no alert.
    """
    names = list(job_types)
    known_job_type.reserve(names)
    for name in names:
        for event, reasons in REASONS_BY_EVENT.items():
            for reason in reasons:
                record_event(event, name, reason, 0)


def jobs_created(jobs_by_type: Mapping[str, int]) -> None:
    """Count jobs that the leader found in the table."""
    for job_type, jobs in jobs_by_type.items():
        known = known_job_type(job_type)
        JOBS_CREATED.labels(known).inc(jobs)
        # It may be a type that nobody handles: of that no process knows before its jobs fail.
        record_event("failed", known, "no_handler", 0)


def observe_run(job_type: str, seconds: float) -> None:
    """Record how long one handler ran."""
    RUN_SECONDS.observe(job_type, seconds, bound=known_job_type)


def observe_start_delay(queue: str, seconds: float) -> None:
    """Record how long one job waited between being due and being started."""
    # A clock a little behind the database's gives a small negative number.
    START_DELAY_SECONDS.observe(queue, seconds if seconds > 0 else 0.0, bound=known_queue)


def observe_batch(operation: str, jobs: int) -> None:
    """Record how many jobs one statement of the engine moved."""
    BATCH_JOBS.observe(operation, jobs, bound=_operations)


_operations: Final = LabelBound(20)


def observe_chunk(job_type: str, jobs: int) -> None:
    """Record how many jobs a handler of chunks was called with."""
    CHUNK_JOBS.observe(job_type, jobs, bound=known_job_type)


def record_database_error(operation: str) -> None:
    """Count a statement or connection that failed; `operation` is a fixed word: `claim`, `settle`."""
    DATABASE_ERRORS_TOTAL.labels(operation).inc()


def record_encrypted_payload(outcome: str) -> None:
    """Count a payload that is, or should be, encrypted; `outcome` is a fixed word."""
    ENCRYPTED_PAYLOADS.labels(outcome).inc()


def schedule_ticks(outcome: str, ticks: int) -> None:
    """Count what became of ticks of schedules."""
    SCHEDULE_TICKS.labels(outcome).inc(ticks)


def schedule_runs(status: str, runs: int) -> None:
    """Count how runs of schedules ended."""
    SCHEDULE_RUNS.labels(status).inc(runs)


def observe_schedule_delay(job_type: str, seconds: float) -> None:
    """Record how long after a schedule was due its job was enqueued."""
    SCHEDULE_DELAY_SECONDS.observe(job_type, seconds if seconds > 0 else 0.0, bound=known_job_type)


def reminder_event(event: str, channel: str, status: str = "ok") -> None:
    """Count one event of a reminder."""
    REMINDER_EVENTS.labels(event, known_channel(channel), status).inc()


def target_event(outcome: str) -> None:
    """Count one request to a target."""
    TARGET_REQUESTS.labels(outcome).inc()


@dataclass(frozen=True, slots=True)
class MetricDoc:
    """One metric, as the documentation lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    documentation: str


def catalogue() -> list[MetricDoc]:
    """Every metric declared above, in order: what docs/metrics.md is made from."""
    docs: list[MetricDoc] = []
    for value in list(globals().values()):
        if isinstance(value, FastHistogram):
            docs.append(MetricDoc(value.name, "histogram", value.labelnames, value.documentation))
        elif isinstance(value, Counter | Gauge):
            (family,) = value.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            # The library has no public attribute for the names of labels.
            labels = tuple(value._labelnames)  # noqa: SLF001
            docs.append(MetricDoc(name, family.type, labels, family.documentation))
    return docs
