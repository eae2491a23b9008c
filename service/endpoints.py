"""Every endpoint of the API, and the pages beside it: all that a process without the API does not import."""

from fastapi import FastAPI

from service.api import (
    admin,
    api_keys,
    audit,
    batches,
    dead_letters,
    dependencies,
    enqueue,
    explain,
    job_changes,
    job_events,
    job_logs,
    jobs,
    own_jobs,
    queues,
    rates,
    sent_events,
    workers,
)
from service.api.docs import add_docs
from service.api.guarded import add_routes
from service.dashboard.dashboard import add_dashboard
from service.operations import routes as operations
from service.reminders import routes as reminders
from service.remote import drain_routes as remote_drain
from service.remote import note_routes as remote_notes
from service.remote import report_routes as remote_reports
from service.remote import routes as remote
from service.schedules import actions as schedule_actions
from service.schedules import routes as schedule_routes
from service.settings import Settings
from service.targets import routes as targets


def add_endpoints(app: FastAPI) -> None:
    """Serve the API, in the order in which its reference shows it."""
    for part in (
        enqueue,
        dependencies,
        batches,
        jobs,
        job_events,
        explain,
        rates,
        admin,
        job_changes,
        own_jobs,
        sent_events,
        queues,
        dead_letters,
        workers,
        job_logs,
        audit,
        api_keys,
        operations,
        targets,
        remote,
        remote_reports,
        remote_notes,
        remote_drain,
        schedule_routes,
        schedule_actions,
        reminders,
    ):
        add_routes(app, part.router)


def add_pages(app: FastAPI, settings: Settings) -> None:
    """Serve the reference and the dashboard, as far as settings want them."""
    if settings.docs_enabled:
        add_docs(app)
    if settings.dashboard_enabled:
        add_dashboard(app)
