"""The payload as its handler takes it."""

from typing import Any

from pydantic import BaseModel, ValidationError

from service.jobs.core.attempt import InvalidPayload
from service.jobs.core.encoding import load_json


def load_payload(text: str, model: type[BaseModel] | None) -> Any:
    """The value of a payload: an instance of `model`, plain JSON where that is None.

    Raises:
        InvalidPayload: it cannot be read, or the model refuses it.
    """
    if model is None:
        try:
            return load_json(text)
        except (ValueError, RecursionError) as error:
            # Enqueued by plain SQL: a number of thousands of digits, nested thousands deep.
            raise InvalidPayload(f"the payload cannot be read: {error}") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise InvalidPayload(_problems(error)) from None


def _problems(error: ValidationError) -> str:
    # Where and why, without the values: those may be secret.
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'payload'}: {problem['msg']}"
        for problem in problems[:5]
    )
