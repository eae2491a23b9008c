"""A job as commands that enqueue the same once more: for curl, and for Python."""

import json
import shlex

from service.jobs.core.job import DEFAULT_PRIORITY, DEFAULT_QUEUE, BackgroundJob


def curl(job: BackgroundJob, payload: str, *, base_url: str) -> str:
    """The call of the API; `payload` is JSON and stays as it is, digit by digit."""
    members = {"job_type": job.job_type, **_options(job)}
    head = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in members.items())
    body = f'{{{head}, "payload": {payload}}}'
    return (
        f"curl -X POST {shlex.quote(base_url + '/jobs')} \\\n"
        '  -H "Authorization: Bearer $TOKEN" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(body)}"
    )


def python(job: BackgroundJob, payload: str) -> str:
    """The call of `enqueue`."""
    options = "".join(f", {name}={value!r}" for name, value in _options(job).items())
    return (
        "import json\n\nfrom service.jobs import enqueue\n\n"
        f"payload = json.loads({payload!r})\n"
        f"job_id = await enqueue(session, {job.job_type!r}, payload{options})"
    )


def _options(job: BackgroundJob) -> dict[str, str | int | float]:
    """What differs from a job that names nothing; a unique key is left out: it may be held."""
    options: dict[str, str | int | float] = {}
    if job.queue != DEFAULT_QUEUE:
        options["queue"] = job.queue
    if job.priority != DEFAULT_PRIORITY:
        options["priority"] = job.priority
    if job.max_retries is not None:
        options["max_retries"] = job.max_retries
    if job.timeout_seconds is not None:
        options["timeout_seconds"] = job.timeout_seconds
    return options
