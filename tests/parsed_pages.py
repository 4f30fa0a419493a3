"""Parse report pages as a browser does."""

from html.parser import HTMLParser
from typing import Any


class ParsedPage(HTMLParser):
    """Parse elements, attributes and text as a browser does."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


def fetched_addresses(parsed: ParsedPage) -> list[str]:
    """Return the addresses that a browser would fetch."""
    carriers = ("src", "srcset", "data", "poster", "action", "xlink:href", "background")
    addresses = [value for _, name, value in parsed.attributes if name in carriers]
    addresses += [value for tag, name, value in parsed.attributes if name == "href" and tag != "a"]
    return [value for value in addresses if not value.startswith(("#", "data:"))]
