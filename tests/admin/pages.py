"""Pages as a browser without JavaScript sees them."""

from html.parser import HTMLParser
from typing import Any

from django.http import HttpResponse


class Page(HTMLParser):
    """What the tests look at: text, tags, and the fields that a form would send."""

    def __init__(self, page: HttpResponse | Any) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page if isinstance(page, str) else content(page))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def links(self) -> list[str]:
        return [attrs.get("href") or "" for attrs in self.all("a")]

    def hidden(self, name: str) -> list[str]:
        return [attrs.get("value") or "" for attrs in self.all("input") if attrs.get("name") == name]


def content(response: HttpResponse | Any) -> str:
    text: str = response.content.decode()
    return text
