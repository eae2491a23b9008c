"""What the documentation says is what the code does."""

import runpy
from pathlib import Path

from service.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"


def test_the_configuration_page_is_the_one_made_from_the_settings() -> None:
    rendered = runpy.run_path(str(DOCS / "generate.py"))["render"]()
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == rendered, "run `make docs`"


def test_every_setting_says_what_it_does() -> None:
    silent = [name for name, field in Settings.model_fields.items() if not field.description]
    assert silent == []
