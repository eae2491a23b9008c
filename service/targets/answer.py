"""What a target answered, read within bounds, and what of it is kept as the job's result."""

import base64
import zlib
from collections.abc import AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from service.errors import PayloadError
from service.jobs.core.encoding import dump_json
from service.jobs.core.redaction import MASK
from service.targets.url import Url

MAX_BODY_BYTES: Final = 65_536
"""What is kept of a body, after it was decompressed."""

MAX_READ_BYTES: Final = 4 * MAX_BODY_BYTES
"""What is read of a body, so that its connection can be used again; beyond that it is closed."""

MAX_KEPT_HEADERS: Final = 64
MAX_KEPT_HEADER_CHARS: Final = 1_000
MAX_EXCERPT_CHARS: Final = 300
MIN_SECRET_CHARS: Final = 6
"""Shorter values of secret headers are not looked for in answers: they are parts of ordinary words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, of which the body may have been cut."""

    url: Url
    """The last one, after redirects."""
    redirects: int
    status: int
    headers: dict[str, str]
    """Names in lower case; of one that comes several times the values, joined by commas."""
    body: bytes
    is_whole: bool
    """Whether `body` is all of it."""
    seconds: float = 0.0

    @property
    def status_words(self) -> str:
        """The status with its standard phrase: that of the server could hold anything."""
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)


class Body:
    """The beginning of a body, decompressed as it comes: a small one may unfold to gigabytes."""

    def __init__(self, encoding: str) -> None:
        self._inflate = (
            zlib.decompressobj(47) if encoding in {"gzip", "x-gzip", "deflate"} else None
        )
        self._kept = bytearray()
        self._read = 0
        self.is_whole = True
        """Whether nothing was left out so far."""

    @property
    def kept(self) -> bytes:
        """What is kept."""
        return bytes(self._kept)

    @property
    def is_full(self) -> bool:
        """Whether so much was read that the rest is not worth its connection."""
        return self._read >= MAX_READ_BYTES

    def take(self, chunk: bytes) -> None:
        """Keep what fits."""
        self._read += len(chunk)
        room = MAX_BODY_BYTES - len(self._kept)
        if self._inflate is not None:
            try:
                # One byte more than fits tells whether there is more; 0 would mean no bound.
                chunk = self._inflate.decompress(chunk, room + 1)
            except zlib.error:
                self.is_whole = False
                return
        if len(chunk) > room:
            self.is_whole = False
        self._kept += chunk[:room]


async def read_body(chunks: AsyncIterator[bytes], body: Body) -> None:
    """Read until the end, or until enough was read."""
    async for chunk in chunks:
        body.take(chunk)
        if body.is_full:
            body.is_whole = False
            return


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers by name in lower case."""
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """Makes the result of a job out of an answer."""

    redacted: Collection[str]
    """Headers, in lower case, whose values are not kept."""
    secrets: tuple[str, ...]
    """Values that were sent and are not to be seen again, though the target sends them back."""
    max_bytes: int
    """Bound on a result."""

    def result(self, answer: Answer) -> dict[str, Any]:
        """Status, headers and the beginning of the body; less of the body where it would be too large."""
        told: dict[str, Any] = {
            "status": answer.status,
            "headers": self._headers(answer),
            "seconds": round(answer.seconds, 4),
        }
        if answer.redirects:
            told |= {"redirects": answer.redirects, "url": answer.url.without_query}
        # What jsonb makes of the body may be several times as long: it is halved until it fits.
        limit = MAX_BODY_BYTES
        while limit > 0:
            body = answer.body[:limit]
            whole = told | self._body(
                body, is_whole=answer.is_whole and len(body) == len(answer.body)
            )
            if _fits(whole, self.max_bytes):
                return whole
            limit //= 2
        return {"status": answer.status, "truncated": True}

    def excerpt(self, answer: Answer) -> str:
        """The beginning of the body on one line, for an error; empty where there is no text."""
        text = answer.body[: 8 * MAX_EXCERPT_CHARS].decode("utf-8", "replace")
        text = self._without_secrets(text, is_cut=True)
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if "\ufffd" in line[:MAX_EXCERPT_CHARS]:
            return ""
        return line if len(line) <= MAX_EXCERPT_CHARS else line[: MAX_EXCERPT_CHARS - 1] + "…"

    def _headers(self, answer: Answer) -> dict[str, str]:
        shown = list(answer.headers.items())[:MAX_KEPT_HEADERS]
        return {
            _clean(name)[:100]: MASK
            if name in self.redacted
            else _clean(self._without_secrets(value)[:MAX_KEPT_HEADER_CHARS])
            for name, value in shown
        }

    def _body(self, body: bytes, *, is_whole: bool) -> dict[str, Any]:
        text = _text(body, is_whole=is_whole)
        if text is None:
            # Byte by byte a character: secrets are ASCII.
            text = self._without_secrets(body.decode("latin-1"), is_cut=not is_whole, mask="******")
            body = text.encode("latin-1")
            return {"body_base64": base64.b64encode(body).decode(), "truncated": not is_whole}
        return {"body": self._without_secrets(text, is_cut=not is_whole), "truncated": not is_whole}

    def _without_secrets(self, text: str, *, is_cut: bool = False, mask: str = MASK) -> str:
        for secret in self.secrets:
            text = text.replace(secret, mask)
        for secret in self.secrets if is_cut else ():
            # The end may be the beginning of one.
            ends = range(min(len(secret), len(text)), MIN_SECRET_CHARS - 1, -1)
            shown = next((end for end in ends if text.endswith(secret[:end])), 0)
            if shown:
                text = text[:-shown] + mask
        return text


def _text(body: bytes, *, is_whole: bool) -> str | None:
    """The body as text; None: it is none that can be stored."""
    # A character may have been cut in the middle: of one of four bytes three may be there.
    for cut in range(1 if is_whole else 4):
        try:
            text = body[: len(body) - cut].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return None if "\x00" in text else text
    return None


def _clean(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _fits(value: dict[str, Any], max_bytes: int) -> bool:
    try:
        dump_json(value, what="result", max_bytes=max_bytes)
    except PayloadError:
        return False
    return True
