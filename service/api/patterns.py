"""The patterns that texts must fit, each with its rule in words: nobody reads a regular expression."""

from typing import Final

from service.jobs.model import NAME_PATTERN, NAME_RULE

VISIBLE_ASCII: Final = r"^[\x21-\x7e]+$"
NO_NUL: Final = r"^[^\x00]*$"

RULES: Final = {
    NAME_PATTERN: NAME_RULE,
    VISIBLE_ASCII: "visible ASCII characters, without spaces",
    NO_NUL: "text without NUL characters, which PostgreSQL cannot store",
}
