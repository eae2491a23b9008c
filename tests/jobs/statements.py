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
    if isinstance(value, Statement | str if module is store.enqueue else Statement)
    and not name.startswith("_")
    and name.isupper()
}
"""The module of each statement."""


def statement(name: str) -> Statement:
    """One of them, as it stands now."""
    found = getattr(HOME[name], name)
    assert isinstance(found, Statement)
    return found


def sql(name: str) -> str:
    """What PostgreSQL is sent."""
    found = getattr(HOME[name], name)
    return found if isinstance(found, str) else str(found.sql)


BY_SQL: Final = {sql(name): name for name in HOME}
"""The name of what PostgreSQL is sent."""


def without(fence: str, name: str) -> Statement:
    """The statement with a condition less."""
    whole = statement(name)
    assert fence in whole.text
    return type(whole)(whole.text.replace(fence, ""))


def named_values(name: str, args: Sequence[Any]) -> dict[str, Any]:
    """The same by the statement's name."""
    found = getattr(HOME[name], name)
    return values_of(found, args) if isinstance(found, Statement) else {}


def values_of(statement: Statement, args: Sequence[Any]) -> dict[str, Any]:
    """What `args` gives the statement, by the names of its parameters."""
    return dict(zip(statement.names, args, strict=True))
