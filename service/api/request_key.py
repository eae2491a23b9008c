"""The digests of a request under its `Idempotency-Key`, which tell nothing of what it has encrypted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from service.api.new_job_schemas import JobIn
from service.jobs.core.encryption import Sealing, digested
from service.jobs.core.idempotency_key import IdempotencyKey
from service.jobs.core.payload_keys import payload_keys


def request_key(
    sent: Any, *, model: Any, jobs: Sequence[JobIn], kind: str | None, owner: str, key: str
) -> IdempotencyKey:
    """The key of a request for these jobs.

    Whoever reads the table could find a card number by trying all: where something is to be encrypted, digests
    by the service's keys stand for it, by each of them, so that a request may be sent again after a rotation.

    Args:
        sent: the body as it came.
        model: the same as this version's model reads it.
        jobs: what it asks for, in order.
        kind: tells apart what has the same body as another endpoint's request.
        owner: the caller.
        key: the name that it chose.
    """
    sealings = [job.sealing() for job in jobs]
    if not any(sealings):
        return _key(sent, model, kind, owner, key)
    made = [
        _key(_hidden(sent, sealings, n), _hidden(model, sealings, n), kind, owner, key)
        for n, _ in enumerate(payload_keys().names)
    ]
    # Without a key the request is refused a moment later.
    return replace(made[0], earlier=tuple(made[1:])) if made else _key({}, {}, kind, owner, key)


def _key(sent: Any, model: Any, kind: str | None, owner: str, key: str) -> IdempotencyKey:
    if kind is not None:
        model, sent = model | {"kind": kind}, {"kind": kind, "body": sent}
    return IdempotencyKey.of(sent, model=model, owner=owner, key=key)


def _hidden(body: Any, sealings: Sequence[Sealing | None], n: int) -> Any:
    if "jobs" in body:
        pairs = zip(body["jobs"], sealings, strict=True)
        return body | {"jobs": [_hidden(job, [sealing], n) for job, sealing in pairs]}
    if sealings[0] is None or "payload" not in body:
        return body
    return body | {"payload": digested(body["payload"], sealings[0], key=n)}
