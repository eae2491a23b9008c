"""What the documentation says is what the code does."""

import runpy
from pathlib import Path

import pytest

from service.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", ["configuration.md", "metrics.md"])
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    page = runpy.run_path(str(DOCS / "generate.py"))["PAGES"][name]
    assert (DOCS / name).read_text(encoding="utf-8") == page(), "run `make docs`"


def test_every_setting_says_what_it_does() -> None:
    silent = [name for name, field in Settings.model_fields.items() if not field.description]
    assert silent == []
