"""The fingerprint of a failure: dead letters with the same one have the same cause.

It is made of the job's type, the error's type, its message without what differs from job to job,
and the function of the handler's own code in which it was raised. Line numbers are no part of it: a
deploy that shifts lines keeps the groups.

Everything here is linear in the length of its texts, which come from handlers.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

RULE_VERSION: Final = 1
"""Part of every fingerprint. Raise it with the rule: old dead letters stay in their old groups."""

MAX_TITLE_CHARS: Final = 200
MAX_KIND_CHARS: Final = 200

_READ_MESSAGE: Final = 2_001
"""Characters read of a message: one by plain SQL may be of any length (`failures.MAX_MESSAGE_CHARS`)."""
_READ_TRACEBACK: Final = 8_001

# Each alternative begins where no character before could have been part of it, and gives nothing
# back: no position is looked at twice.
_VARIABLE: Final = re.compile(
    r"""
      (?P<quoted> "[^"\n]*+" | (?<!\w)'[^'\n]*+'(?!\w) | `[^`\n]*+` | “[^“”\n]*+” )
    | (?P<number>
        (?<![A-Za-z0-9])[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}(?![A-Za-z0-9])
      | \b0x[0-9a-fA-F]++
      | (?<![A-Za-z0-9])(?=[A-Za-z]{0,40}[0-9])[A-Za-z0-9]{8,}+
      | \d++(?:[.,:]\d++)*+
      )
    | (?P<address>
        (?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s"'<>]++
      | (?<![\w.+-])[\w.+-]{1,64}+@[\w.-]++
      )
    """,
    re.VERBOSE,
)
_REPEATED: Final = re.compile(r"(#|'…')(?:,? \1)++")
_SPACE: Final = re.compile(r"\s++")

_FRAME: Final = re.compile(
    r'^[ |+]*File "(?P<file>[^"\n]*+)", line \d++(?:, in (?P<function>[^\n]*+))?', re.MULTILINE
)
_LAST_TRACEBACK: Final = "Traceback (most recent call last):"
_NOT_OWN: Final = re.compile(
    r"/(?:site|dist)-packages/|/lib/python\d|/python\d+/lib/|^<"
    r"|/service/(?:jobs|db|observability|settings)/",
    re.IGNORECASE,
)
"""Files of installed packages, the standard library and this engine."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What a failure has in common with others of its group."""

    fingerprint: str
    """16 hexadecimal digits."""
    kind: str
    """The type of the error."""
    title: str
    """The message without what differs from job to job, shortened."""


def cause_of(job_type: str, kind: str, message: str, traceback: str | None) -> Cause:
    """The cause of a failure, as a job's history keeps it."""
    kind = kind[:MAX_KIND_CHARS]
    words = normalise(message[:_READ_MESSAGE])
    frame = _own_frame((traceback or "")[-_READ_TRACEBACK:])
    return Cause(_digest(job_type, kind, words, frame), kind, words[:MAX_TITLE_CHARS])


def overflow_of(job_type: str | None) -> str:
    """The fingerprint of the group that takes what is beyond the limit on groups of a type.

    None: beyond the limit on groups in all.
    """
    return _digest("overflow", "" if job_type is None else job_type)


def normalise(message: str) -> str:
    """The message with numbers, ids, quoted parts and addresses replaced."""
    words = _SPACE.sub(" ", _VARIABLE.sub(_placeholder, message)).strip()
    return _REPEATED.sub(r"\1", words)


def _placeholder(found: re.Match[str]) -> str:
    match found.lastgroup:
        case "quoted":
            return "'…'"
        case "address":
            return "<address>"
        case _:
            return "#"


def _own_frame(traceback: str) -> str:
    """File and function of the innermost frame that is the handler's own code.

    Where all frames belong to installed packages the handler itself is installed: then it is the
    outermost one.
    """
    begin = traceback.rfind(_LAST_TRACEBACK)
    outermost = ""
    own = ""
    for frame in _FRAME.finditer(traceback, max(begin, 0)):
        file = frame["file"].replace("\\", "/")
        name = f"{file.rpartition('/')[2]}:{frame['function'] or ''}"
        outermost = outermost or name
        if not _NOT_OWN.search(file):
            own = name
    return own or outermost


def _digest(*parts: str) -> str:
    # As JSON would tell them apart: no part can pass for two.
    text = "\0".join((str(RULE_VERSION), *(part.replace("\0", "") for part in parts)))
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
