"""Functions and classes that another process finds by import: handlers with `executor="process"`, their models."""

import functools
import importlib
import sys
from dataclasses import dataclass
from typing import Any

from service.errors import ConfigurationError

WAY_OUT = 'executor="process" needs a function that another process can import: a `def` at the top level of a module'


@dataclass(frozen=True, slots=True)
class Importable:
    """Where something is found."""

    module: str
    name: str

    @classmethod
    def of(cls, what: Any) -> "Importable":
        """Where `what` says that it is."""
        return cls(what.__module__, what.__qualname__)

    def find(self) -> Any:
        """Import the module, and look the name up in it.

        Raises:
            ImportError: there is no such module.
            AttributeError: it has no such name.
            Exception: whatever the module raises.
        """
        return functools.reduce(getattr, self.name.split("."), importlib.import_module(self.module))

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def refuse_unimportable(job_type: str, what: Any) -> None:
    """Refuse what no other process could find, as far as it shows while its module is loaded.

    Raises:
        ConfigurationError: it has no name of its own, is made in a function, or is in `__main__`.
    """
    name, module = getattr(what, "__qualname__", None), getattr(what, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        raise _refused(job_type, f"{what!r:.200} has no name of its own")
    if "<" in name:
        made = "is a lambda" if name.endswith("<lambda>") else "is made in a function"
        raise _refused(job_type, f"{module}.{name} {made}")
    if module == "__main__":
        raise _refused(
            job_type, f"{name} is in the program that was started, which no process imports"
        )


def check_importable(job_type: str, what: Any) -> None:
    """Refuse what is not found under its name once its module is loaded.

    Raises:
        ConfigurationError: there is nothing of that name, or something else.
    """
    place = Importable.of(what)
    try:
        found = functools.reduce(getattr, place.name.split("."), sys.modules[place.module])
    except (AttributeError, KeyError):
        raise _refused(job_type, f"there is no {place}") from None
    if found is not what:
        raise _refused(
            job_type,
            f"{place} is another object than the one registered (make @register_handler the outermost decorator)",
        )


def _refused(job_type: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"Handler {job_type!r}: {problem}; {WAY_OUT}")
