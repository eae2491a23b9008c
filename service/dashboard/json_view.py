"""JSON of a job as a page shows it: every digit, keys sorted, fields masked, within bounds.

It is made of the text that PostgreSQL writes for jsonb, which is well-formed, and never of Python's
numbers: `12345678901234567890.10` stays what it is. No function here calls itself: text may be
nested however deep.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

MAX_DEPTH: Final = 24
MAX_NODES: Final = 2_000
MAX_STRING_CHARS: Final = 2_000
OPEN_DEPTH: Final = 2
OPEN_CHILDREN: Final = 60
"""How deep, and up to how many members, a value stands unfolded."""

MASK: Final = "••••••"

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+')


@dataclass(slots=True)
class Node:
    """One value, with the key or the position that leads to it."""

    kind: str
    """`object`, `array`, `string`, `number`, `word` (true, false, null) or `masked`."""
    key: str | None = None
    text: str = ""
    """Of a scalar: its JSON text."""
    children: "list[Node]" = field(default_factory=list)

    @property
    def is_leaf(self) -> bool:
        """Whether it has no members of its own."""
        return self.kind not in {"object", "array"}

    @property
    def string(self) -> str:
        """A string as it reads, without quotes and escapes."""
        return str(json.loads(self.text))


@dataclass(slots=True)
class Shown:
    """A value as `macros.html` shows it: a tree that was cut to its bounds."""

    depth: int
    node: Node
    value: str
    """What stands there for a leaf."""
    more_chars: int
    children: "list[Shown]"
    is_open: bool

    @property
    def more_children(self) -> int:
        """Members that are not shown."""
        return len(self.node.children) - len(self.children)


def parse(text: str, masked: Collection[str] = ()) -> Node:
    """The value of a JSON text out of jsonb, with the members of the names in `masked` left out.

    Names are compared without regard to case.
    """
    hidden = {name.lower() for name in masked}
    top = Node("array")
    stack = [top]
    key: str | None = None
    tokens = _TOKEN.finditer(text)
    for token in tokens:
        part = token[0]
        parent = stack[-1]
        if part in {",", ":"}:
            continue
        if part in {"}", "]"}:
            _close(stack.pop())
            continue
        if parent.kind == "object" and key is None:
            key = str(json.loads(part))
            continue
        if parent.kind == "array" and parent is not top:
            key = str(len(parent.children))
        node = Node(_kind_of(part), key, part)
        parent.children.append(node)
        if key is not None and parent.kind == "object" and key.lower() in hidden:
            node.kind = "masked"
            if part in {"{", "["}:
                _skip(tokens)
        elif part in {"{", "["}:
            stack.append(node)
        key = None
    return top.children[0]


def masks_in(node: Node) -> int:
    """How many members were left out."""
    return sum(1 for one, _ in _walk(node) if one.kind == "masked")


def numbers_in(node: Node) -> Iterator[str]:
    """Every number, as it is written."""
    return (one.text for one, _ in _walk(node) if one.kind == "number")


def show(node: Node) -> Shown:
    """The value cut to its bounds, breadth before depth."""
    top = _shown(node, 0)
    level, left = [top], MAX_NODES
    while level:
        following: list[Shown] = []
        for one in level:
            if one.depth >= MAX_DEPTH:
                continue
            taken = one.node.children[:left]
            left -= len(taken)
            one.children.extend(_shown(child, one.depth + 1) for child in taken)
            following += one.children
        level = following
    return top


def write(node: Node) -> str:
    """The value as JSON text again, indented, keys sorted."""
    return "".join(_written(node))


def is_cut(shown: Shown) -> bool:
    """Whether anything was left out."""
    level = [shown]
    while level:
        if any(_hides(one) for one in level):
            return True
        level = [child for one in level for child in one.children]
    return False


def _hides(shown: Shown) -> bool:
    return bool(shown.more_chars or shown.more_children)


def _shown(node: Node, depth: int) -> Shown:
    value = MASK if node.kind == "masked" else node.text
    return Shown(
        depth=depth,
        node=node,
        value=value[:MAX_STRING_CHARS] if node.is_leaf else "",
        more_chars=max(0, len(value) - MAX_STRING_CHARS) if node.is_leaf else 0,
        children=[],
        is_open=depth < OPEN_DEPTH and len(node.children) <= OPEN_CHILDREN,
    )


def _kind_of(part: str) -> str:
    if part in {"{", "["}:
        return "object" if part == "{" else "array"
    if part[0] == '"':
        return "string"
    return "word" if part in {"true", "false", "null"} else "number"


def _close(node: Node) -> None:
    node.text = ""
    if node.kind == "object":
        node.children.sort(key=lambda child: child.key or "")


def _skip(tokens: Iterator[re.Match[str]]) -> None:
    depth = 1
    while depth:
        part = next(tokens)[0]
        depth += (part in {"{", "["}) - (part in {"}", "]"})


def _walk(top: Node) -> Iterator[tuple[Node, int]]:
    stack = [(top, 0)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        stack += ((child, depth + 1) for child in reversed(node.children))


def _written(top: Node) -> Iterator[str]:
    # Each entry is a node to write, or the text that closes one.
    stack: list[tuple[Node | str, int, bool, bool]] = [(top, 0, True, False)]
    while stack:
        node, depth, is_last, has_key = stack.pop()
        end = "" if depth == 0 else "\n" if is_last else ",\n"
        if isinstance(node, str):
            yield "  " * min(depth, MAX_DEPTH) + node + end
            continue
        yield "  " * min(depth, MAX_DEPTH)
        if has_key:
            yield json.dumps(node.key, ensure_ascii=False) + ": "
        if node.is_leaf or not node.children:
            yield (_leaf(node) if node.is_leaf else "{}" if node.kind == "object" else "[]") + end
            continue
        opened, closed = ("{", "}") if node.kind == "object" else ("[", "]")
        yield opened + "\n"
        stack.append((closed, depth, is_last, False))
        last = len(node.children) - 1
        stack += (
            (node.children[at], depth + 1, at == last, node.kind == "object")
            for at in range(last, -1, -1)
        )


def _leaf(node: Node) -> str:
    return f'"{MASK}"' if node.kind == "masked" else node.text
