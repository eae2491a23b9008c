"""The engine's statements by name, and where each stands: to be counted, or broken on purpose."""

from types import ModuleType

from service.jobs import store

HOME: dict[str, ModuleType] = {
    name: module
    for module in (getattr(store, name) for name in store.__all__)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str) and not name.startswith("_")
}
"""The module of each statement."""


def statement(name: str) -> str:
    """The text of one."""
    text = getattr(HOME[name], name)
    assert isinstance(text, str)
    return text
