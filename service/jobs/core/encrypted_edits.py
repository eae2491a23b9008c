"""What people change of payloads that are partly encrypted: what they are not shown, they keep or replace."""

import json
from collections.abc import Mapping
from typing import Any

from service.errors import InvalidInput
from service.jobs.core.encryption import (
    CIPHERTEXT,
    ENCRYPTED,
    Sealing,
    both,
    check_unsealed,
    is_sealed,
    names_of,
    opened,
    seal,
    split,
)
from service.jobs.core.payload_keys import AlteredCiphertext, PayloadKeyMissing


def resealed(before: Any, after: Any, sealing: Sealing | None, *, job_type: str) -> Any:
    """What is stored where a person replaces the payload `before` of a job by `after`.

    Members in `$encrypted` of `after` keep their values: the very ciphertext, where all of them do. A
    member that `after` gives anew is encrypted again; one that it leaves out of both is gone.

    Args:
        before: as it is stored.
        after: as the person sends it; what is shown in place of a ciphertext counts as nothing.
        sealing: what the job's type encrypts.
        job_type: of the job.

    Raises:
        InvalidInput: `after` keeps what the job has not, or this process lacks a key that it takes.
    """
    kept = after.get(ENCRYPTED) if isinstance(after, Mapping) else None
    had = before.get(ENCRYPTED) if is_sealed(before) else None
    given = after
    if isinstance(after, Mapping) and (kept is not None or CIPHERTEXT in after):
        given = {name: one for name, one in after.items() if name not in {ENCRYPTED, CIPHERTEXT}}
    sealing = both(sealing, names_of(had))
    if kept is None:
        return given if sealing is None else seal(given, sealing, job_type=job_type)
    asked = names_of(kept)
    if had is None or asked is None or (asked is True) != (had is True) or not _within(asked, had):
        raise InvalidInput(
            f"payload keeps {ENCRYPTED} {json.dumps(kept)[:120]}, and of the job's payload {json.dumps(had)[:120]}"
            " is encrypted: leave out what the job has not",
            field="payload",
        )
    if had is True:
        if given:
            raise InvalidInput(
                f"payload is encrypted as a whole: send it anew as a whole, or {{{json.dumps(ENCRYPTED)}: true}}"
                " alone to keep it",
                field="payload",
            )
        return before
    for name in () if asked is True else asked:
        _check_parents(given, name)
    if _leaves_all(given, had, kept, sealing):
        return {**given, ENCRYPTED: had, CIPHERTEXT: before[CIPHERTEXT]}
    try:
        whole = opened(before, job_type=job_type)
    except (AlteredCiphertext, PayloadKeyMissing) as error:
        raise InvalidInput(
            f"payload gives some encrypted members anew and keeps others, and {error}",
            field="payload",
        ) from None
    old, _ = split(whole, () if asked is True else asked)
    assert sealing is not None
    return seal(_joined(given, old), sealing, job_type=job_type)


def check_merge(payload: Any, patch: Mapping[str, Any], sealing: Sealing | None) -> None:
    """Refuse a merge patch for many jobs that would touch what is encrypted.

    Raises:
        InvalidInput: the member is named.
    """
    had = payload.get(ENCRYPTED) if is_sealed(payload) else None
    sealing = both(sealing, names_of(had))
    if ENCRYPTED in patch or CIPHERTEXT in patch:
        check_unsealed(patch)
    if sealing is True:
        raise InvalidInput("The payload is encrypted as a whole: a merge cannot change it")
    for name in sealing or ():
        if name.partition(".")[0] in patch:
            raise InvalidInput(f"payload.{name} is encrypted: change it job by job")


def _within(asked: Sealing, had: Any) -> bool:
    return asked is True or had is True or set(asked) <= set(had)


def _check_parents(payload: Any, name: str) -> None:
    """Refuse a payload that keeps an encrypted member, and has no place for it."""
    *parents, _ = name.split(".")
    place = payload
    for one in parents:
        if not isinstance(place, Mapping) or one not in place:
            return
        place = place[one]
        if not isinstance(place, Mapping):
            raise InvalidInput(
                f"payload keeps the encrypted member {name[:120]!r}, and its {one[:120]!r} is no object: leave the"
                f" member out of {ENCRYPTED}, or the other value out",
                field="payload",
            )


def _leaves_all(given: Any, had: list[str], kept: Any, sealing: Sealing | None) -> bool:
    """Whether an edit keeps every encrypted member, and gives none that is to be encrypted."""
    if sealing is None or sealing is True or set(kept) != set(had):
        return False
    return not (isinstance(given, dict) and split(given, sealing)[0])


def _joined(payload: dict[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with these members, where it has none of their names."""
    whole = json.loads(json.dumps(payload))
    for name, value in members.items():
        *parents, last = name.split(".")
        place = whole
        for one in parents:
            place = place.setdefault(one, {})
        place.setdefault(last, value)
    return whole  # type: ignore[no-any-return]
