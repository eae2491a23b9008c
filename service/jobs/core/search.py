"""The search box: `status:FAILED type:send_invoice payload.user.id:1 "timeout after"`.

A search is a list of terms separated by spaces. A term is `field:value` or free text; a value with
spaces stands in double quotes. Free text that is a number finds the job with that id, any other is
looked for in errors. Terms of different fields must all hold.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Self

from service.errors import InvalidInput
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import HIGHEST_PRIORITY, LOWEST_PRIORITY, MAX_ID, JobStatus
from service.jobs.core.payload_field import PayloadField
from service.jobs.core.search_times import RANGE_RULE, read_range

MAX_SEARCH_CHARS: Final = 20_000
"""A thousand ids fit in."""
MAX_VALUE_CHARS: Final = 300
"""Limit on one value, a list of ids aside."""
MAX_SEARCH_IDS: Final = 1_000
MAX_PAYLOAD_FIELDS: Final = 5

FREE_TEXT: Final = ""
"""The field of a term that names none."""

PAYLOAD_PREFIX: Final = "payload."

_TERM: Final = re.compile(
    r"""(?: (?P<field>[^\s":]+) : )? (?: "(?P<quoted>(?:[^"\\]|\\.)*)" | (?P<bare>[^\s"]+) )""",
    re.VERBOSE,
)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{16}")
_NUMBER: Final = re.compile(r"\d+", re.ASCII)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Term:
    """One part of a search."""

    field: str
    value: str
    quoted: bool = False

    def __str__(self) -> str:
        value = self.value
        if (
            self.quoted
            or not value
            or re.search(r'[\s"]', value)
            or (not self.field and ":" in value)
        ):
            value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"{self.field}:{value}" if self.field else value


@dataclass(frozen=True, slots=True)
class Search:
    """What was typed, term by term; `str` of it is the text again."""

    terms: tuple[Term, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split a text into terms.

        Raises:
            InvalidInput: the text is too long, a quote is not closed, a field has no value, or there
                is no field of that name.
        """
        if len(text) > MAX_SEARCH_CHARS:
            raise _refusal(
                f"it is {len(text)} characters long: at most {MAX_SEARCH_CHARS} are allowed"
            )
        if "\0" in text:
            raise _refusal("it holds a NUL character, which PostgreSQL cannot store: remove it")
        terms = []
        position = 0
        while rest := text[position:].lstrip():
            position = len(text) - len(rest)
            term = _TERM.match(text, position)
            end = term.end() if term else position
            if term is None or not (end == len(text) or text[end].isspace()):
                raise _refusal(_unreadable(rest))
            terms.append(_term_of(term))
            position = end
        return cls(tuple(terms))

    def __str__(self) -> str:
        return " ".join(map(str, self.terms))

    def without(self, field: str) -> "Search":
        """The same without the terms of `field`."""
        return replace(self, terms=tuple(term for term in self.terms if term.field != field))

    def also(self, field: str, value: str) -> "Search":
        """The same with one more term."""
        return replace(self, terms=(*self.terms, Term(field, value)))

    def filters(self, now: datetime) -> JobFilters:
        """Which jobs the search is for. Times such as `<1h` count from `now`.

        Raises:
            InvalidInput: a value breaks the rule of its field, or fields contradict each other.
        """
        found: dict[str, Any] = {}
        for name in dict.fromkeys(term.field for term in self.terms):
            terms = [term for term in self.terms if term.field == name]
            if name.startswith(PAYLOAD_PREFIX):
                found["payload"] = (*found.get("payload", ()), *map(_payload_field, terms))
            elif name in _RANGES:
                found |= _range(name, terms, now)
            else:
                _merge(found, _READERS[name](terms))
        if len(found.get("payload", ())) > MAX_PAYLOAD_FIELDS:
            raise _refusal(f"it names more than {MAX_PAYLOAD_FIELDS} payload fields: remove some")
        return JobFilters(**found)


def search_for(filters: JobFilters) -> Search:
    """The search that finds what `filters` find."""
    terms = []
    for name, attribute in _ATTRIBUTES.items():
        value = getattr(filters, attribute)
        if value is None:
            continue
        values = sorted(value) if attribute in {"ids", "statuses"} else [value]
        terms.append(Term(name, ",".join(map(str, values))))
    for name in _RANGES:
        for end, sign in (("after", ">"), ("before", "<")):
            if (moment := getattr(filters, f"{name}_{end}")) is not None:
                terms.append(Term(name, f"{sign}{moment.isoformat().replace('+00:00', 'Z')}"))
    for field in filters.payload or ():
        path = PAYLOAD_PREFIX + ".".join(field.path)
        terms.append(Term(path, field.value, quoted=field.string_only))
    return Search(tuple(terms))


def _term_of(found: re.Match[str]) -> Term:
    name, quoted = found["field"] or FREE_TEXT, found["quoted"]
    value = found["bare"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
    if not name and quoted is None and value.endswith(":"):
        # Words of an error such as `ValueError: no`, unless the value of a field was left out.
        field = _ALIASES.get(value[:-1].lower(), value[:-1].lower())
        if field in _READERS or field in _RANGES or field.startswith(PAYLOAD_PREFIX):
            raise _refusal(f"{value} has no value: write {value}… or remove it")
    if name and not name.startswith(PAYLOAD_PREFIX):
        field = _ALIASES.get(name.lower(), name.lower())
        if field not in _READERS and field not in _RANGES:
            raise _refusal(_no_such_field(name, found[0]))
        name = field
    if not value.strip():
        raise _refusal(f"{found[0]} has no value: remove it, or write one")
    return Term(name, value, quoted is not None)


def _unreadable(rest: str) -> str:
    part = rest[:60]
    if '"' in part:
        return f'{part} has a double quote that is not closed, or text that touches it: write "like this"'
    return (
        f"{part} has no value: write it as field:value, or in double quotes to search errors for it"
    )


def _no_such_field(name: str, part: str) -> str:
    near = difflib.get_close_matches(name.lower(), FIELD_NAMES, n=1)
    hint = f"did you mean {near[0]}:? " if near else ""
    return (
        f"{part}: there is no field {name}; {hint}Fields are {', '.join(FIELD_NAMES)}. To search errors "
        f'for this text, put it in double quotes: "{part}"'
    )


def _refusal(why: str) -> InvalidInput:
    return InvalidInput(f"The search cannot be read: {why}", field="q")


def _merge(found: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if name in found and found[name] != value:
            raise _refusal(
                f"{name} is asked for twice, as {found[name]} and as {value}: remove one"
            )
        found[name] = value


def _range(name: str, terms: list[Term], now: datetime) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for term in terms:
        bounds = read_range(term.value, now=now, ahead=name == "due")
        if bounds is None:
            raise _refusal(f"{term}: {RANGE_RULE}")
        for end, moment in zip(("after", "before"), bounds, strict=True):
            if moment is not None:
                _merge(found, {f"{name}_{end}": moment})
    after, before = found.get(f"{name}_after"), found.get(f"{name}_before")
    if after is not None and before is not None and after >= before:
        raise _refusal(
            f"{' '.join(map(str, terms))} leaves no time between its ends: swap or widen them"
        )
    return found


def _payload_field(term: Term) -> PayloadField:
    value = f'"{term.value}"' if term.quoted else term.value
    try:
        return PayloadField.parse(f"{term.field.removeprefix(PAYLOAD_PREFIX)}:{value}")
    except InvalidInput as error:
        raise _refusal(f"{term}: {error.detail}") from None


def _one(attribute: str) -> Callable[[list[Term]], dict[str, Any]]:
    def read(terms: list[Term]) -> dict[str, Any]:
        values = dict.fromkeys(term.value for term in terms)
        if len(values) > 1:
            raise _refusal(
                f"{' '.join(map(str, terms))}: a job has one {terms[0].field}. Remove one"
            )
        return {attribute: _bounded(next(iter(values)))}

    return read


def _statuses(terms: list[Term]) -> dict[str, Any]:
    found = set()
    for part in _parts(terms):
        name = part.upper().replace("-", "_")
        if name not in JobStatus.__members__:
            raise _refusal(f"status:{part}: expected one of {', '.join(JobStatus)}")
        found.add(JobStatus(name))
    return {"statuses": frozenset(found)}


def _ids(terms: list[Term]) -> dict[str, Any]:
    found = set()
    for part in _parts(terms):
        if not _NUMBER.fullmatch(part) or len(part) > 19 or not 0 < int(part) <= MAX_ID:
            raise _refusal(f"id:{part}: expected the number of a job, 1 to {MAX_ID}")
        found.add(int(part))
    if len(found) > MAX_SEARCH_IDS:
        raise _refusal(f"it names {len(found)} ids: at most {MAX_SEARCH_IDS} are allowed")
    return {"ids": frozenset(found)}


def _parts(terms: Iterable[Term]) -> list[str]:
    return [part.strip() for term in terms for part in term.value.split(",") if part.strip()]


def _priority(terms: list[Term]) -> dict[str, Any]:
    value = _one("priority")(terms)["priority"]
    if value not in {str(each) for each in range(HIGHEST_PRIORITY, LOWEST_PRIORITY + 1)}:
        raise _refusal(
            f"priority:{value}: expected {HIGHEST_PRIORITY} (most urgent) to {LOWEST_PRIORITY}"
        )
    return {"priority": int(value)}


def _cause(terms: list[Term]) -> dict[str, Any]:
    value = _one("fingerprint")(terms)["fingerprint"].lower()
    if not _FINGERPRINT.fullmatch(value):
        raise _refusal(
            f"{terms[0]}: expected 16 of the digits 0-9 and a-f, as lists of causes show them"
        )
    return {"fingerprint": value}


def _free(terms: list[Term]) -> dict[str, Any]:
    numbers = [term for term in terms if not term.quoted and _NUMBER.fullmatch(term.value)]
    words = [term.value for term in terms if term not in numbers]
    found: dict[str, Any] = _ids(numbers) if numbers else {}
    return found | ({"error": _bounded(" ".join(words))} if words else {})


def _bounded(value: str) -> str:
    if len(value) > MAX_VALUE_CHARS:
        raise _refusal(
            f"{value[:60]}… is {len(value)} characters long: at most {MAX_VALUE_CHARS} are allowed"
        )
    return value


_READERS: Final[dict[str, Callable[[list[Term]], dict[str, Any]]]] = {
    "status": _statuses,
    "type": _one("job_type"),
    "queue": _one("queue"),
    "id": _ids,
    "key": _one("unique_key"),
    "idempotency": _one("idempotency_key"),
    "priority": _priority,
    "concurrency": _one("concurrency_key"),
    "held": _one("held_for"),
    "worker": _one("worker"),
    "error": _one("error"),
    "cause": _cause,
    FREE_TEXT: _free,
}
_RANGES: Final = ("created", "due", "finished")
_ALIASES: Final = {
    "job_type": "type",
    "unique_key": "key",
    "idempotency_key": "idempotency",
    "idempotency-key": "idempotency",
    "concurrency_key": "concurrency",
    "held_for": "held",
    "ids": "id",
    "fingerprint": "cause",
}
_ATTRIBUTES: Final = {
    "status": "statuses",
    "type": "job_type",
    "queue": "queue",
    "id": "ids",
    "key": "unique_key",
    "idempotency": "idempotency_key",
    "priority": "priority",
    "concurrency": "concurrency_key",
    "held": "held_for",
    "worker": "worker",
    "error": "error",
    "cause": "fingerprint",
}
"""The member of `JobFilters` that a field with one value fills."""

FIELD_NAMES: Final = (*_ATTRIBUTES, *_RANGES, "payload.<path>")
