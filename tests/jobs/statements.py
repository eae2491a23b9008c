"""The engine's statements by name, and where each stands: to be counted, or broken on purpose."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

from service.jobs import store
from service.jobs.store.statement import Statement

HOME: Final[dict[str, ModuleType]] = {
    name: module
    for module in (getattr(store, name) for name in store.__all__)
    for name, value in vars(module).items()
    if isinstance(value, Statement) and not name.startswith("_")
}
"""The module of each statement."""


def statement(name: str) -> Statement:
    """One of them, as it stands now."""
    found = getattr(HOME[name], name)
    assert isinstance(found, Statement)
    return found


BY_SQL: Final = {statement(name).sql: name for name in HOME}
"""The name of what PostgreSQL is sent."""


def without(fence: str, name: str) -> Statement:
    """The statement with a condition less."""
    whole = statement(name)
    assert fence in whole.text
    return type(whole)(whole.text.replace(fence, ""))


def values_of(statement: Statement, args: Sequence[Any]) -> dict[str, Any]:
    """What `args` gives the statement, by the names of its parameters."""
    return dict(zip(statement.names, args, strict=True))
