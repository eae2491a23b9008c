"""docs/guarantees.md promises nothing that no test holds."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
PROMISES = [
    item.strip() for item in re.findall(r"^- \*\*.*?(?=^- |^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
]


@cache
def functions_of(path: str) -> set[str]:
    """The test functions that a file defines."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def test_the_page_makes_promises() -> None:
    assert len(PROMISES) >= 20


@pytest.mark.parametrize("promise", PROMISES, ids=lambda text: text[4:40])
def test_a_promise_names_tests_that_exist(promise: str) -> None:
    named = NAMED.findall(promise)
    assert named, f"no test holds this promise: {promise}"
    assert promise.count("::") == len(named), f"a name that is not `path::test`: {promise}"
    missing = [f"{path}::{name}" for path, name in named if name not in functions_of(path)]
    assert missing == []


def test_the_picture_shows_every_legal_step_and_no_other() -> None:
    from service.jobs.core.job import TRANSITIONS

    drawn = set(re.findall(r"^ *([A-Z_]+) --> ([A-Z_]+)", PAGE, re.MULTILINE))
    assert drawn == {(before, after) for before, steps in TRANSITIONS.items() for after in steps}
