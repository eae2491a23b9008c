"""A SQL statement whose parameters have names."""

import re
from typing import Final

_PARAMETER: Final = re.compile(r"(?<![:\w]):([a-z]\w*)")
"""As in SQLAlchemy's `text()`. A cast has two colons."""


class Statement:
    """A SQL statement with `:name` parameters, numbered once, when it is made.

    `link.fetch(*LATE.bind(seconds=5))` sends the text with `$1` and the values in its order. A
    parameter that is missing or unknown is a TypeError, and names do not shift when one is added.
    """

    __slots__ = ("_expected", "names", "sql", "text")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.names: Final = tuple(dict.fromkeys(_PARAMETER.findall(text)))
        """Of its parameters, in the order in which they first appear: `names[0]` is `$1`."""
        number = {name: f"${place}" for place, name in enumerate(self.names, 1)}
        self.sql: Final = _PARAMETER.sub(lambda found: number[found[1]], text)
        """What PostgreSQL is sent."""
        self._expected: Final = frozenset(self.names)

    def __repr__(self) -> str:
        return f"Statement({self.text!r})"

    def bind(self, **values: object) -> tuple[str, *tuple[object, ...]]:
        """The arguments of a `fetch`: the text, then the values in its order.

        Raises:
            TypeError: a parameter is missing, or there is none of that name.
        """
        if values.keys() != self._expected:
            missing, unknown = self._expected - values.keys(), values.keys() - self._expected
            words = [f"missing {name}" for name in sorted(missing)]
            words += [f"unknown {name}" for name in sorted(unknown)]
            raise TypeError(f"parameters: {', '.join(words)}; in {self.text.strip()[:200]}")
        return self.sql, *[values[name] for name in self.names]


class Transition(Statement):
    """A statement by which jobs change their status or their lease.

    The simulation plays each of them again, in Python: see `tests/simulation/model.py`.
    """

    __slots__ = ()
