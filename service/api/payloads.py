"""Payloads of new jobs, checked by the models of their types where this process knows them."""

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import to_json

from service.api.new_job_schemas import JobIn
from service.api.refusals import MAX_ERRORS, first_errors
from service.jobs.core.encryption import ENCRYPTED
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.core.new_job import NewJob
from service.jobs.store.batches import COUNTS
from service.observability.logging import get_logger

_log = get_logger(__name__)


def check_payload(job: JobIn) -> None:
    """Refuse a job whose handler would refuse its payload.

    Raises:
        RequestValidationError: with the model's errors, each under `body.payload`.
    """
    check_payload_of(job.job_type, job.payload)


def check_payload_of(job_type: str, payload: Any) -> None:
    """The same for the new payload of a job; one that keeps encrypted members is its handler's to check."""
    if isinstance(payload, dict) and ENCRYPTED in payload:
        return
    if errors := _errors(job_type, payload, ("body", "payload")):
        raise RequestValidationError(errors)


def check_payload_of_batch(member: str, job: NewJob) -> None:
    """The same for the job that a batch enqueues, whose payload gets a member `batch` with the counts."""
    counts = {"id": 1, "name": "name"} | dict.fromkeys(COUNTS, 0)
    payload = {**(job.payload or {}), "batch": counts}
    if errors := _errors(job.job_type, payload, ("body", member, "payload")):
        raise RequestValidationError(errors)


def check_payloads(jobs: Sequence[JobIn]) -> None:
    """The same for a batch: errors have the path `body.jobs.N.payload`; the first 50 are raised."""
    errors: list[dict[str, Any]] = []
    for position, job in enumerate(jobs):
        errors += _errors(job.job_type, job.payload, ("body", "jobs", position, "payload"))
        if len(errors) >= MAX_ERRORS:
            break
    if errors:
        raise RequestValidationError(errors)


def _errors(job_type: str, payload: Any, location: tuple[str | int, ...]) -> list[dict[str, Any]]:
    model = policies.get(job_type, DEFAULTS).payload_model
    if model is None:
        return []
    try:
        # As JSON, as the worker does it: a strict model takes other values from Python.
        model.model_validate_json(to_json(payload))
    except ValidationError as error:
        found = first_errors(error).errors(
            include_url=False, include_input=False, include_context=False
        )
        return [{**one, "loc": (*location, *one["loc"])} for one in found[:MAX_ERRORS]]
    except Exception as error:  # a bug of a validator: the worker will record it
        _log.warning("payload_not_checked", job_type=job_type, error=type(error).__name__)
    return []
