"""docs/reliability.md claims nothing that no test shows."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
LINK = re.compile(r"\[`(\w+)`\]\(([^)]+\.py)\)")


def links() -> Iterator[tuple[str, str]]:
    """Names and the files that they are said to be in."""
    return ((name, path) for name, path in LINK.findall(PAGE.read_text()))


@pytest.mark.parametrize(("name", "path"), sorted(set(links())))
def test_the_test_that_is_linked_exists(name: str, path: str) -> None:
    assert f"def {name}(" in (PAGE.parent / path).read_text()


def test_each_row_that_says_what_becomes_of_something_names_its_test() -> None:
    tables = PAGE.read_text().split("## How you see")[0]
    rows = [
        line for line in tables.splitlines() if line.startswith("| ") and not line.startswith(("| what f", "| prom"))
    ]
    assert rows
    assert [row for row in rows if not LINK.search(row)] == []
