"""Which answer leads to which call: the links of the OpenAPI document, by operation and status."""

from typing import Any, Final


def _link(operation: str, parameter: str, pointer: str, description: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "parameters": {parameter: f"$response.body#{pointer}"},
        "description": description,
    }


LINKS: Final[dict[str, dict[str, Any]]] = {
    "enqueueJob": {
        "201": {
            "read": _link("getJob", "job_id", "/id", "The job, as its client sees it."),
            "inspect": _link("getJobDetail", "job_id", "/id", "The whole job, with its history."),
            "cancel": _link("cancelJob", "job_id", "/id", "Cancel it, while it is pending."),
            "delete": _link("deleteJob", "job_id", "/id", "Delete it, unless it runs."),
        }
    },
    "enqueueJobs": {"201": {"read": _link("getJob", "job_id", "/ids/0", "The first of the jobs.")}},
    "listJobs": {
        "200": {
            "inspect": _link(
                "getJobDetail", "job_id", "/jobs/0/id", "The newest job that matches."
            ),
            "retry": _link("retryJob", "job_id", "/jobs/0/id", "Run it again, if it is dead."),
        }
    },
    "createSchedule": {
        "201": {
            "read": _link("getSchedule", "name", "/name", "The schedule, and its next tick."),
            "change": _link("changeSchedule", "name", "/name", "Change it."),
            "run": _link("runSchedule", "name", "/name", "Run it now."),
            "delete": _link("deleteSchedule", "name", "/name", "Delete it."),
        }
    },
    "createReminder": {
        "201": {
            "read": _link("getReminder", "reminder_id", "/id", "The reminder, and its delivery."),
            "change": _link("changeReminder", "reminder_id", "/id", "Change it, until it is sent."),
            "delete": _link("deleteReminder", "reminder_id", "/id", "Delete it, with its job."),
        }
    },
    "createApiKey": {
        "201": {"revoke": _link("revokeApiKey", "prefix", "/prefix", "Revoke the key.")}
    },
}
