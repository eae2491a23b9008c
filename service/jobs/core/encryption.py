"""Payloads of which some members, or all, are kept encrypted.

What is encrypted leaves the payload, and stands beside the rest as one ciphertext:
`{"amount": 7, "$encrypted": ["card"], "$ciphertext": "1.5f2a….…"}`. `$encrypted` is true where it is the
whole payload. The ciphertext is bound to the job's type and to the names, so that it is worth nothing in
a job of another type. Merging other members into such an object leaves it as it is.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from service.errors import ConfigurationError, InvalidInput
from service.jobs.core.encoding import dump_json, load_json
from service.jobs.core.payload_keys import payload_keys

ENCRYPTED: Final = "$encrypted"
CIPHERTEXT: Final = "$ciphertext"
MAX_FIELDS: Final = 20

Encrypt: TypeAlias = bool | Sequence[str]
"""As it is given: whether the whole payload is encrypted, or which members: `card`, `customer.card`."""
Sealing: TypeAlias = Literal[True] | tuple[str, ...]
"""What is encrypted: the whole payload, or these members."""

_FIELD: Final = re.compile(r"[^.$][^.]{0,99}(\.[^.]{1,100}){0,9}")
_MARK: Final = f'"{CIPHERTEXT}"'


def sealing_of(given: Any) -> Sealing | None:
    """What `encrypt` asks for; None: nothing.

    Raises:
        InvalidInput: it is neither a boolean nor a list of members.
    """
    if given is None or given is False:
        return None
    if given is True:
        return True
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) > MAX_FIELDS:
        raise _refused(given, f"expected true, or a list of up to {MAX_FIELDS} members: card")
    for one in given:
        if not isinstance(one, str) or not _FIELD.fullmatch(one):
            raise _refused(one, "expected a member of the payload: card, or customer.card")
    return tuple(sorted(set(given))) or None


def both(one: Sealing | None, other: Sealing | None) -> Sealing | None:
    """What is encrypted where either asks for it."""
    if one is True or other is True:
        return True
    return tuple(sorted({*(one or ()), *(other or ())})) or None


def covers(sealing: Sealing, path: str) -> str | None:
    """The encrypted member that this path of the payload (`customer.id`) reads, as a name; None: it reads none."""
    if sealing is True:
        return "the whole payload"
    for name in sealing:
        if f"{path}.".startswith(f"{name}.") or f"{name}.".startswith(f"{path}."):
            return f"payload.{name}"
    return None


def check_unread(sealing: Sealing, paths: Sequence[str], *, by: str) -> None:
    """Refuse a key that would tell what is encrypted.

    Args:
        sealing: what is encrypted.
        paths: members that the key is made of, `payload.customer_id`; other words count as none.
        by: the option that makes the key.

    Raises:
        InvalidInput: it reads an encrypted member.
    """
    for path in paths:
        name = path.removeprefix("payload.")
        if name != path and (read := covers(sealing, name)) is not None:
            raise InvalidInput(
                f"{by} names {path[:120]!r}, and {read} is encrypted: a key stands beside the payload for all"
                " to read. Make it of other members.",
                field=by,
            )


def is_sealed(payload: object) -> bool:
    """Whether something of a stored payload is encrypted."""
    return isinstance(payload, Mapping) and CIPHERTEXT in payload


def may_be_sealed(text: str) -> bool:
    """Whether a stored payload may be, by its text: what is not costs no more than this."""
    return _MARK in text


def plain_part(payload: Any) -> Any:
    """A stored payload without what is encrypted."""
    if not is_sealed(payload):
        return payload
    return {name: value for name, value in payload.items() if name not in {ENCRYPTED, CIPHERTEXT}}


def without_ciphertext(payload: Any) -> Any:
    """A stored payload as a person edits it: `$encrypted` stands for what stays encrypted."""
    if not is_sealed(payload):
        return payload
    return {name: value for name, value in payload.items() if name != CIPHERTEXT}


def check_unsealed(payload: object) -> None:
    """Refuse a payload of a new job that pretends to be encrypted.

    Raises:
        InvalidInput: it has a member of ours.
    """
    if isinstance(payload, Mapping) and (ENCRYPTED in payload or CIPHERTEXT in payload):
        raise InvalidInput(
            f"payload has a member {ENCRYPTED} or {CIPHERTEXT}, which the service alone writes: choose another"
            " name",
            field="payload",
        )


def seal(payload: Any, sealing: Sealing, *, job_type: str) -> Any:
    """The payload as it is stored; the same where it has none of the members.

    Raises:
        InvalidInput: it is no object, a member is in a list, or this process has no key.
        PayloadError: it is not JSON.
    """
    keys = payload_keys()
    if not keys:
        raise InvalidInput(
            "encrypt is set for this job, and PAYLOAD_KEYS of the process that enqueues it is empty: set it, the"
            " same as the workers'",
            field="encrypt",
        )
    value = load_json(dump_json(payload, what="payload", max_bytes=2**31))
    if sealing is True:
        names: Any = True
        secret: Any = value
        rest: dict[str, Any] = {}
    else:
        if not isinstance(value, dict):
            raise InvalidInput(
                f"encrypt names {', '.join(sealing)[:120]}, and the payload is no object: give encrypt: true for"
                " the whole of it",
                field="encrypt",
            )
        for name in sealing:
            _check_place(value, name)
        taken, rest = split(value, sealing)
        if not taken:
            return payload
        names, secret = sorted(taken), taken
    text = dump_json(secret, what="payload", max_bytes=2**31)
    sealed = keys.encrypt(text.encode(), bound_to=_bound_to(job_type, names))
    return {**rest, ENCRYPTED: names, CIPHERTEXT: sealed}


def preview(payload: Any, sealing: Sealing | None, *, ciphertext: str) -> Any:
    """What `seal` would make of a payload, with this in the ciphertext's place."""
    if sealing is None or payload is None:
        return payload
    if sealing is True:
        return {ENCRYPTED: True, CIPHERTEXT: ciphertext}
    taken, rest = split(payload, sealing) if isinstance(payload, dict) else ({}, {})
    return {**rest, ENCRYPTED: sorted(taken), CIPHERTEXT: ciphertext} if taken else payload


def digested(payload: Any, sealing: Sealing, *, key: int) -> Any:
    """The payload with digests of what is to be encrypted, by the key in this place.

    Two that are the same have the same, and without the key nobody can tell of what.
    """
    taken, rest = ({"": payload}, {}) if sealing is True else split(payload, sealing)
    made = {
        name: payload_keys().digests(json.dumps(value, sort_keys=True).encode())[key].hex()
        for name, value in taken.items()
    }
    return {**rest, CIPHERTEXT: made}


def opened(payload: Any, *, job_type: str) -> Any:
    """A stored payload as it was enqueued.

    Raises:
        PayloadKeyMissing: this process lacks its key.
        AlteredCiphertext: it was altered, or belongs to another job type.
    """
    if not is_sealed(payload):
        return payload
    names = payload.get(ENCRYPTED)
    plain = payload_keys().decrypt(payload[CIPHERTEXT], bound_to=_bound_to(job_type, names))
    secret = load_json(plain.decode())
    whole = plain_part(payload)
    if names is True:  # the service adds a member to the job of a batch
        return {**secret, **whole} if whole else secret
    for name, value in secret.items():
        *parents, last = name.split(".")
        place = whole
        for one in parents:
            inner = place.get(one)
            place[one] = dict(inner) if isinstance(inner, dict) else {}
            place = place[one]
        place[last] = value
    return whole


def opened_text(text: str, *, job_type: str) -> str:
    """The same of a JSON text."""
    payload = load_json(text)
    if not is_sealed(payload):
        return text
    return dump_json(opened(payload, job_type=job_type), what="payload", max_bytes=2**31)


def check_configured(job_types: Mapping[str, Sealing]) -> None:
    """Refuse to start a process that could neither encrypt nor decrypt what its handlers ask for.

    Raises:
        ConfigurationError: it has no key.
    """
    if job_types and not payload_keys():
        raise ConfigurationError(
            f"Handler {min(job_types)!r} encrypts payloads, and PAYLOAD_KEYS is empty: set it, the same in every"
            " process, with `openssl rand -base64 32`"
        )


def names_of(had: Any) -> Sealing | None:
    """What `$encrypted` of a payload says; None where it says nothing."""
    if had is True:
        return True
    return tuple(map(str, had)) if isinstance(had, list) else None


def split(payload: dict[str, Any], names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The members of these names that the payload has, and a copy without them."""
    taken: dict[str, Any] = {}
    rest = dict(payload)
    for name in names:
        *parents, last = name.split(".")
        place = rest
        for one in parents:
            if not isinstance(place.get(one), dict):
                break
            place[one] = dict(place[one])
            place = place[one]
        else:
            if last in place:
                taken[name] = place.pop(last)
    return taken, rest


def _check_place(payload: dict[str, Any], name: str) -> None:
    place: Any = payload
    above: list[str] = []
    for one in name.split("."):
        if isinstance(place, list):
            whole = ".".join(above)
            raise InvalidInput(
                f"encrypt names {name[:120]!r}, and payload.{whole[:120]} is a list, of which nothing would be"
                f" encrypted: name {whole[:120]!r}",
                field="encrypt",
            )
        if not isinstance(place, dict):
            return
        place = place.get(one)
        above.append(one)


def _bound_to(job_type: str, names: Any) -> bytes:
    return json.dumps(["finmind-jobs payload", job_type, names]).encode()


def _refused(value: object, rule: str) -> InvalidInput:
    return InvalidInput(f"encrypt is {str(value)[:120]!r}: {rule}", field="encrypt")
