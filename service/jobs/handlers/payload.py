"""The payload as its handler takes it."""

from typing import Any

from pydantic import BaseModel, ValidationError

from service.jobs.core.attempt import InvalidPayload
from service.jobs.core.encoding import load_json
from service.jobs.core.encryption import is_sealed, may_be_sealed, opened_text, preview
from service.jobs.core.job_types import JobTypePolicy
from service.jobs.core.payload_keys import AlteredCiphertext, PayloadKeyMissing
from service.observability.logging import get_logger
from service.observability.metrics import record_encrypted_payload

_log = get_logger(__name__)


def opened_payload(text: str, job_type: str, policy: JobTypePolicy) -> str:
    """The JSON text of a payload with what is encrypted of it in its place.

    One that nothing is encrypted of costs a look for a word in its text.

    Raises:
        PayloadKeyMissing: this process lacks the key: the attempt fails, and is retried as any other.
        InvalidPayload: the ciphertext was altered, or belongs to another job type: no retry could help.
    """
    if policy.encrypt is None and not may_be_sealed(text):
        return text
    try:
        plain = opened_text(text, job_type=job_type)
    except PayloadKeyMissing as error:
        record_encrypted_payload("key_missing")
        _log.error("payload_key_missing", job_type=job_type, detail=str(error))
        raise
    except AlteredCiphertext as error:
        record_encrypted_payload("altered")
        _log.error("payload_altered", job_type=job_type)
        raise InvalidPayload(str(error)) from None
    except (ValueError, RecursionError):  # enqueued by plain SQL: see `load_payload`
        return text
    if plain is not text:
        record_encrypted_payload("opened")
    elif is_sealed(preview(load_json(text), policy.encrypt, ciphertext="")):
        # Somebody enqueued it who does not know the handler: it stood readable in the table.
        record_encrypted_payload("not_encrypted")
        _log.warning("payload_not_encrypted", job_type=job_type)
    return plain


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
