"""What a handler came to that ran in a process of its own, as that process told it."""

from dataclasses import dataclass

from service.errors import PayloadError


class HandlerDied(Exception):
    """The process that a handler ran in ended before the handler did."""


class RaisedElsewhere(Exception):
    """What the handler raised: in words, since only its own process has the error itself.

    Attributes:
        decides: an error that has the same outcome.
        name: its class.
        message: its words.
        traceback: as text.
    """

    def __init__(
        self, decides: BaseException, *, name: str, message: str, traceback: str | None
    ) -> None:
        super().__init__(message)
        self.decides = decides
        self.name = name
        self.message = message
        self.traceback = traceback


@dataclass(frozen=True, slots=True)
class EncodedResult:
    """What the handler returned, as JSON text; or why it has none."""

    text: str
    refused: str | None = None

    def json(self) -> str:
        """The text.

        Raises:
            PayloadError: the value cannot be stored.
        """
        if self.refused is not None:
            raise PayloadError(self.refused, field="result")
        return self.text
