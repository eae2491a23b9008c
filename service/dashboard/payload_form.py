"""A form made of the JSON schema of a payload, and the payload that a sent form makes.

Texts, numbers, booleans and choices have boxes of their own; anything else is written as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.dashboard.payload_edit import read_payload
from service.errors import InvalidInput

MAX_FIELDS: Final = 60
"""A payload with more members is written as JSON as a whole."""

PREFIX: Final = "payload."
"""Of the names of the boxes."""


@dataclass(frozen=True, slots=True)
class Field:
    """One box of the form."""

    name: str
    kind: str
    """`text`, `integer`, `number`, `boolean`, `choice` or `json`."""
    required: bool
    words: str
    default: str
    """What the box holds at first; empty where the member is left out."""
    choices: tuple[str, ...] = ()

    @property
    def box(self) -> str:
        """The name of its box."""
        return PREFIX + self.name


def fields_of(schema: Mapping[str, Any] | None) -> list[Field] | None:
    """The boxes of a payload; None where it is written as JSON as a whole."""
    if schema is None or schema.get("type") != "object":
        return None
    members = schema.get("properties")
    if not isinstance(members, dict) or not 0 < len(members) <= MAX_FIELDS:
        return None
    required = schema.get("required")
    needed = set(required) if isinstance(required, list) else set()
    return [
        _field(str(name), member if isinstance(member, dict) else {}, schema, needed=name in needed)
        for name, member in members.items()
    ]


def read(fields: list[Field], sent: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The payload of a sent form, and what is wrong with its boxes by their names."""
    payload: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for field in fields:
        text = str(sent.get(field.box, "")).replace("\r\n", "\n")
        if not text.strip() and not (field.kind == "text" and field.required):
            if field.required:
                errors[field.box] = "Give a value"
            continue
        try:
            payload[field.name] = _value(field, text)
        except InvalidInput as error:
            errors[field.box] = error.detail
        except (ValueError, RecursionError):
            errors[field.box] = f"{text[:60]!r} is not {_EXPECTED[field.kind]}"
    return payload, errors


_EXPECTED: Final = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "choice": "one of the choices",
    "json": "JSON",
}


def _value(field: Field, text: str) -> Any:
    """What a box holds.

    Raises:
        ValueError: it is not what the member is.
        InvalidInput: it is no JSON, or a number has more digits than the service passes on.
    """
    if field.kind == "text":
        return text
    if field.choices and text not in field.choices:
        raise ValueError(text)
    if field.kind == "json":
        return read_payload(text, job_type="")
    value = json.loads(text)
    if type(value) not in _TYPES.get(field.kind, {type(value)}):
        raise ValueError(text)
    read_payload(text, job_type="")
    return value


_TYPES: Final[dict[str, set[type]]] = {"integer": {int}, "number": {int, float}}


def _field(
    name: str, member: Mapping[str, Any], schema: Mapping[str, Any], *, needed: bool
) -> Field:
    inner = _resolved(member, schema)
    choices = inner.get("enum", [inner["const"]] if "const" in inner else None)
    if isinstance(choices, list) and choices:
        kind, texts = "choice", tuple(json.dumps(choice) for choice in choices)
    else:
        kind = {
            "string": "text",
            "integer": "integer",
            "number": "number",
            "boolean": "boolean",
        }.get(str(inner.get("type")), "json")
        texts = ("true", "false") if kind == "boolean" else ()
    default = member.get("default")
    return Field(
        name=name,
        kind=kind,
        required=needed,
        words=_words(member, inner),
        default="" if default is None else str(default) if kind == "text" else json.dumps(default),
        choices=texts,
    )


def _resolved(member: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a member is, where it may be null as well, or is named elsewhere in the schema."""
    for _ in range(3):
        kinds = member.get("anyOf") or member.get("allOf")
        if isinstance(kinds, list):
            others = [one for one in kinds if one != {"type": "null"}]
            member = others[0] if len(others) == 1 and isinstance(others[0], dict) else {}
        reference = str(member.get("$ref", ""))
        if reference.startswith("#/$defs/"):
            member = (schema.get("$defs") or {}).get(reference.removeprefix("#/$defs/")) or {}
    return member


def _words(member: Mapping[str, Any], inner: Mapping[str, Any]) -> str:
    """What the schema says of a member: its description, its format and its bounds."""
    parts = [str(member.get("description") or inner.get("description") or "")]
    parts.append(
        {
            "date-time": "a time such as 2026-01-31T09:00:00Z",
            "date": "a day such as 2026-01-31",
            "email": "an address",
            "uuid": "a UUID",
            "uri": "a URL",
        }.get(str(inner.get("format")), "")
    )
    for bound, words in (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    ):
        if bound in inner:
            parts.append(f"{words} {inner[bound]}")
    for bound, words in (("minLength", "at least"), ("maxLength", "at most")):
        if bound in inner:
            parts.append(f"{words} {inner[bound]} characters")
    return "; ".join(part.rstrip(".") for part in parts if part)[:300]
