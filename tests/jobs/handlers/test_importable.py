"""Which handlers may run in processes of their own: those that another process can import."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from service.errors import ConfigurationError
from service.jobs import Registry


class Model(BaseModel):
    width: int


class AnObject:
    def __call__(self, payload: Any) -> None: ...


class OfAClass:
    @staticmethod
    def resize(payload: Any) -> None: ...


def resize(payload: Any) -> None: ...


def hidden(payload: Any) -> None: ...


registered = hidden


def hidden(payload: Any) -> None:  # type: ignore[no-redef]
    """Not what was registered."""


def made() -> Callable[[Any], None]:
    def resize(payload: Any) -> None: ...

    return resize


def of_main(payload: Any) -> None: ...


of_main.__module__ = "__main__"


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda payload: None, "is a lambda"),
        (made(), "made.<locals>.resize is made in a function"),
        (functools.partial(resize), "has no name of its own"),
        (AnObject(), "has no name of its own"),
        (of_main, "of_main is in the program that was started"),
    ],
)
def test_a_handler_that_no_process_could_import_is_refused_at_once(
    function: Callable[..., Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"Handler 'resize': .*{words}.*top level"):
        Registry().handler("resize", executor="process")(function)
    Registry().handler("resize")(function)


def test_one_that_is_not_found_under_its_name_is_refused_once_its_module_is_loaded() -> None:
    handlers = Registry()
    handlers.handler("good", executor="process", payload_model=Model)(resize)
    handlers.handler("static", executor="process")(OfAClass.resize)
    handlers.check_importable()
    handlers.handler("bad", executor="process")(registered)
    with pytest.raises(ConfigurationError, match=r"'bad': .*hidden is another object.*outermost"):
        handlers.check_importable()


def test_a_model_is_imported_too() -> None:
    class Local(BaseModel):
        width: int

    with pytest.raises(ConfigurationError, match="Local is made in a function"):
        Registry().handler("resize", executor="process", payload_model=Local)(resize)


def test_another_executor_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="executor is 'procces', expected \"process\""):
        Registry().handler("resize", executor="procces")(resize)  # type: ignore[arg-type]


def test_a_queue_that_other_handlers_name_too_is_not_one_of_computing_handlers() -> None:
    handlers = Registry()
    for name, queue in (("a", "images"), ("b", "shared"), ("c", "default"), ("d", None)):
        handlers.handler(name, executor="process", queue=queue)(resize)
    handlers.handler("e", queue="shared")(resize)
    assert handlers.computing_queues() == {"images"}
