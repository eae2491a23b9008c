"""Every message of ours reads the same way: a sentence, as somebody would write it to a colleague."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from service import errors
from service.api.problems import EXAMPLES

SERVICE = Path(errors.__file__).parent
RAISED = {name for name, value in vars(errors).items() if isinstance(value, type)}
DETAIL_FIRST = RAISED | {"_refused"}
"""Calls whose first argument is what is said; that of the others is their second."""
DETAIL_SECOND = {"BodyRefused", "HeadRefused", "refuse", "problem_response"}
NAMES = re.compile(
    r"(action|after|backoff|callback|encrypt|limit|name|payload|priority|queue|reason|recipient|scopes"
    r"|cron|from|names|overlap|zone|@schedule"
    r"|session|until|\w+_\w+|--\w+)\b"
)
"""What a message may begin with as it is written: a field, a parameter or an option."""


def said() -> Iterator[tuple[str, str]]:
    """Where each message stands, and its text, with `…` for what it is filled in with."""
    for path in sorted(SERVICE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            node.target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            for expression in _details(node):
                text = _text(expression, constants)
                if text is not None:
                    yield f"{path.relative_to(SERVICE)}:{expression.lineno}", text


def _details(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call):
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        at = 0 if name in DETAIL_FIRST else 1 if name in DETAIL_SECOND else None
        if at is not None:
            yield from node.args[at : at + 1]
    elif isinstance(node, ast.FunctionDef) and node.name == "_http_detail":
        yield from (
            part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value
        )


def _text(node: ast.expr, constants: Mapping[str, object]) -> str | None:
    """The text of a literal, a filled-in literal or a constant; None where it is made elsewhere."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts
            )
        case ast.Name(id=name) if isinstance(constants.get(name), str):
            return str(constants[name])
    return None


def _reads_well(text: str) -> bool:
    begins = text[0].isupper() or text[0] == "…" or NAMES.match(text)
    # Of several sentences each ends with a period; one alone with none.
    several = re.search(r"\w[)`]?\. \S", text) or "…. " in text
    return bool(begins) and text.endswith((".", "?")) == bool(several or text.endswith("?"))


def test_messages_are_found() -> None:
    assert len(list(said())) > 100


def test_every_message_is_a_sentence() -> None:
    assert [(where, text) for where, text in said() if not _reads_well(text)] == []


def test_every_example_of_an_error_reads_as_one_does() -> None:
    assert [text for text in EXAMPLES.values() if not _reads_well(text)] == []
