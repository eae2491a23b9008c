"""Handlers from modules that settings name; a broken one stops the start."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.errors import ConfigurationError
from service.jobs.handlers.loader import load_handlers
from service.jobs.handlers.registry import registry
from service.settings import Settings

GOOD = """
from service.jobs import register_handler

@register_handler("loader.{name}")
async def handle(payload):
    return None
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of importable modules; what they register is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_specs", {})
    imported = set(sys.modules)
    yield tmp_path
    # Whoever loads the same module afterwards finds it registered only if it is imported anew.
    for name in sys.modules.keys() - imported:
        del sys.modules[name]


MakeSettings = Callable[..., Settings]


def test_the_handlers_of_named_modules_are_known(
    modules: Path, make_settings: MakeSettings
) -> None:
    (modules / "loader_one.py").write_text(GOOD.format(name="one"))
    (modules / "loader_two.py").write_text(GOOD.format(name="two"))
    job_types = load_handlers(make_settings(handler_modules="loader_one, loader_two"))
    assert {"loader.one", "loader.two"} <= set(job_types)


def test_the_handlers_of_installed_entry_points_are_known(
    modules: Path, make_settings: MakeSettings
) -> None:
    (modules / "loader_plugin.py").write_text(GOOD.format(name="plugin"))
    metadata = modules / "plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[finmind_jobs.handlers]\nmine = loader_plugin\n")
    assert "loader.plugin" in load_handlers(make_settings())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError.*no_such_module_anywhere"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
        (GOOD.format(name="has spaces"), "Job type 'loader.has spaces'"),
    ],
)
def test_a_broken_module_stops_the_start_and_says_why(
    modules: Path, make_settings: MakeSettings, source: str, words: str
) -> None:
    name = f"loader_broken_{abs(hash(source))}"
    (modules / f"{name}.py").write_text(source)
    with pytest.raises(ConfigurationError, match=f"(?s)HANDLER_MODULES.*{name}.*{words}"):
        load_handlers(make_settings(handler_modules=name))


def test_a_module_that_is_not_there_stops_the_start(make_settings: MakeSettings) -> None:
    with pytest.raises(ConfigurationError, match=r"HANDLER_MODULES.*'no_such_handlers'"):
        load_handlers(make_settings(handler_modules="no_such_handlers"))


def test_demo_handlers_are_there_only_when_asked_for(
    modules: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "service.demo", raising=False)
    assert not [name for name in load_handlers(make_settings()) if name.startswith("demo.")]
    assert "demo.ok" in load_handlers(make_settings(demo_handlers=True))
