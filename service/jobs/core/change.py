"""What a person changes of a job that waits, or of a dead one that is to run again."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from service.errors import InvalidInput
from service.jobs.core.encoding import dump_json
from service.jobs.core.encrypted_edits import resealed
from service.jobs.core.job_types import encrypted_of
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, RULES, check_name


@dataclass(frozen=True, slots=True, kw_only=True)
class JobChange:
    """New values of a job; None leaves a value as it is. The rules are those of `NewJob`."""

    payload: Any = None
    run_at: datetime | None = None
    queue: str | None = None
    priority: int | None = None
    max_retries: int | None = None

    def encoded(self, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> dict[str, Any]:
        """The parameters of a statement, by name.

        Raises:
            InvalidInput: a value breaks a rule; it is named.
        """
        if self.queue is not None:
            check_name("queue", self.queue)
        payload = self.payload
        return {
            "queue": self.queue,
            "payload": None
            if payload is None
            else dump_json(payload, what="payload", max_bytes=max_payload_bytes),
        } | {
            name: None if (value := getattr(self, name)) is None else RULES[name](value)
            for name in ("run_at", "priority", "max_retries")
        }

    def sealed_for(self, job_type: str, *, before: Any) -> "JobChange":
        """The same with the payload as it is stored in a job of this type, whose payload is `before`.

        Raises:
            InvalidInput: it keeps encrypted members that the job has not, or a key is missing.
        """
        payload = resealed(before, self.payload, encrypted_of(job_type), job_type=job_type)
        return self if payload is self.payload else replace(self, payload=payload)

    def retry_values(self, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES) -> dict[str, Any]:
        """The parameters of a retry, which leaves a job in its lane.

        Raises:
            InvalidInput: a value breaks a rule, or the lane would change.
        """
        values = self.encoded(max_payload_bytes=max_payload_bytes)
        for name in ("queue", "priority"):
            if values.pop(name) is not None:
                raise InvalidInput(
                    f"{name} cannot be changed by a retry: retry the job, then change it",
                    field=name,
                )
        return values

    def given(self) -> dict[str, Any]:
        """The values that are to be changed, by name."""
        return {
            name: value for name in self.__slots__ if (value := getattr(self, name)) is not None
        }

    def names(self) -> list[str]:
        """What is to be changed.

        Raises:
            InvalidInput: nothing.
        """
        given = list(self.given())
        if not given:
            raise InvalidInput(
                f"Nothing is to be changed: give at least one of {', '.join(self.__slots__)}"
            )
        return given
