"""The requests and answers of `/reminders`."""

from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from service.api.field_types import PlannedTime, UtcTime
from service.reminders.model import ReminderStatus
from service.reminders.recipients import MAX_RECIPIENT_CHARS, ChannelName, check_recipient


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL character cannot be stored")
    if not text.strip():
        raise ValueError("expected text, not only white space")
    return text


Message = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_storable)]

Recipient = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_RECIPIENT_CHARS), AfterValidator(_storable)
]

_EXAMPLE: Final[dict[str, Any]] = {
    "message": "Pay the electricity bill",
    "send_at": "2030-01-31T09:00:00+01:00",
    "channel": "email",
    "recipient": "ada@example.org",
}


class ReminderIn(BaseModel):
    """A new reminder. A `send_at` in the past means: at the next scan."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    message: Message = Field(description="What is sent, 1 to 500 characters.")
    send_at: PlannedTime = Field(description="When, with an offset from UTC.")
    channel: ChannelName = Field(description="How it is sent.")
    recipient: Recipient = Field(
        description="To whom: an e-mail address, a number in E.164 form for WhatsApp, "
        "any text for `log`."
    )

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        try:
            check_recipient(self.channel, self.recipient)
        except ValueError as error:
            raise ValueError(f"recipient for channel {self.channel}: {error}") from None
        return self


def _no_null_in(schema: dict[str, Any]) -> None:
    # Not a union with what means null: its errors would name each of its parts, by their functions.
    for member in schema["properties"].values():
        (kept,) = (part for part in member.pop("anyOf") if part != {"type": "null"})
        member.update(kept)
        member.pop("default", None)
    schema |= {"minProperties": 1, "examples": [{"send_at": "2030-02-01T09:00:00+01:00"}]}


class ReminderChange(BaseModel):
    """What to change; what is left out stays."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=_no_null_in,
    )

    message: Message | None = None
    send_at: PlannedTime | None = None
    channel: ChannelName | None = None
    recipient: Recipient | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _no_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("null is not a value: leave the field out to keep what it is")
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("nothing to change: give message, send_at, channel or recipient")
        return self


class ReminderOut(BaseModel):
    """A reminder and its delivery state."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                _EXAMPLE
                | {
                    "id": 42,
                    "user_id": "ada",
                    "send_at": "2030-01-31T08:00:00Z",
                    "status": "retrying",
                    "sent": False,
                    "sent_at": None,
                    "attempts": 1,
                    "last_error": "The mail server could not be reached (ConnectionRefusedError)",
                    "job_id": 1234,
                    "created_at": "2030-01-01T12:00:00Z",
                    "updated_at": "2030-01-31T08:00:02Z",
                }
            ]
        },
    )

    id: int = Field(description="Its number.")
    user_id: str = Field(description="The `sub` of the token that made it.")
    message: str
    send_at: UtcTime
    channel: ChannelName
    recipient: str
    status: ReminderStatus = Field(
        description="`scheduled`: waits for its time. `queued`: a job will send it. `retrying`: "
        "an attempt failed, another follows. `sent`: the channel accepted it. `failed`: given "
        "up, see `last_error`. `cancelled`: an operator cancelled its job."
    )
    sent: bool = Field(description="True only once the channel has accepted it.")
    sent_at: UtcTime | None
    attempts: int = Field(description="Attempts of its present job.")
    last_error: str | None = Field(description="Why the last attempt failed.")
    job_id: int | None = Field(description="The job that sends it.")
    created_at: UtcTime
    updated_at: UtcTime


class ReminderPage(BaseModel):
    """Some reminders, newest first."""

    reminders: list[ReminderOut]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class RunOut(BaseModel):
    """What one look for due reminders did."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"enqueued": 3, "already_queued": 1}]}
    )

    enqueued: int = Field(description="Due reminders that got a job.")
    already_queued: int = Field(
        description="Due reminders that had one already; counted up to COUNT_CAP."
    )
