"""What a page holds, as a reader of its HTML finds it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

INLINE = {"a", "bdi", "code", "mark", "small", "span", "strong", "time"}
VOID = {"area", "br", "hr", "img", "input", "link", "meta", "option", "source"}


@dataclass(slots=True)
class Element:
    """An element and what is in it, in order."""

    tag: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    content: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """The words in it, with single spaces."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for part in self.content:
            if isinstance(part, str):
                yield part
            else:
                yield from part._texts()
                if part.tag not in INLINE:
                    yield " "

    def all(self, tag: str, **attributes: str) -> "list[Element]":
        """The elements of that tag inside it with these attributes; `data_rows` is `data-rows`."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            one
            for one in self._inside()
            if one.tag == tag
            and all((one.attributes.get(name) or "") == value for name, value in wanted.items())
        ]

    def one(self, tag: str, **attributes: str) -> "Element":
        """The only such element."""
        found = self.all(tag, **attributes)
        assert len(found) == 1, (tag, attributes, len(found))
        return found[0]

    def _inside(self) -> "Iterator[Element]":
        for part in self.content:
            if isinstance(part, Element):
                yield part
                yield from part._inside()

    @property
    def links(self) -> dict[str, str]:
        """Where links lead, by their words."""
        return {one.text: one.attributes.get("href") or "" for one in self.all("a")}

    @property
    def rows(self) -> list[str]:
        """The words of the rows that keys move along."""
        return [row.text for body in self.all("tbody", data_rows="") for row in body.all("tr")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack = [Element("document")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.stack[-1].content.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.stack[-1].tag == tag, f"</{tag}> closes <{self.stack[-1].tag}>"
            self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.stack[-1].content.append(data)


def parsed(html: str) -> Element:
    """The page; fails where an element is not closed."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.stack) == 1, [one.tag for one in reader.stack]
    return reader.stack[0]
